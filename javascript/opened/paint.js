// A dialog, as large as the screen, in which a mask is painted over a picture or taken from a file: white where something
// counts. Everything in it can be done by keyboard, too.
(window.ipAdapter ??= {}).paint = (() => {
    const HINT = "Paint over what counts. What stays dark does not.";
    const LEAST_SIDE = 768;  // of a mask, in pixels, for edges without steps on a small picture
    const UNDO_BYTES = 96 * 2 ** 20;  // of steps that can be undone
    const STEP = 0.02;  // how far an arrow key moves, as a share of the shorter side
    // Of the units, in their order; light enough for a dark ground, and apart for eyes that see fewer colours.
    const COLOURS = [
        "#56b4e9", "#e69f00", "#2fbf8f", "#f0e442", "#cc79a7", "#6f8cff", "#e8602c", "#b0b0b0", "#9be15d", "#c59bff",
    ];
    const colourOf = (number) => COLOURS[(number - 1) % COLOURS.length];

    function element(name, properties = {}, ...children) {
        const {label, ...own} = properties, made = Object.assign(document.createElement(name), own);
        if (label) made.setAttribute("aria-label", label);
        made.append(...children);
        return made;
    }
    const button = (textContent, title, onclick) => element("button", {type: "button", textContent, title, onclick});

    // A mask while it is painted, with what can be undone. On the canvas `view`, which lies over the picture, stands what
    // a person sees: darkness where the mask does not count, its soft edges, and the other units' regions.
    class Painting {
        constructor({shape, number, others}) {
            const {canvasOf} = ipAdapter.masks;
            Object.assign(this, {number, others, feather: 0, cursor: null, tints: new Map()});
            this.mask = canvasOf(shape);
            this.before = canvasOf(shape);  // the mask as it was when a shape was begun
            this.view = canvasOf(shape);
            this.shorter = Math.min(...shape);
            this.undone = [];
            this.done = [];
        }
        // Everything that changes the mask does it in here, so that it can be undone.
        change(how) {
            this.note();
            how(this.mask);
            this.drawSoon();
        }
        note() {
            const alpha = ipAdapter.masks.alphaOf(this.mask);
            this.done.push(alpha);
            if (this.done.length * alpha.length > UNDO_BYTES) this.done.shift();
            this.undone = [];
            this.onChange?.();
        }
        step(from, to) {
            if (!from.length) return;
            to.push(ipAdapter.masks.alphaOf(this.mask));
            ipAdapter.masks.takeAlpha(this.mask, from.pop());
            this.onChange?.();
            this.drawSoon();
        }
        undo() {
            this.step(this.done, this.undone);
        }
        redo() {
            this.step(this.undone, this.done);
        }

        // Strokes and shapes, by points in pixels of the mask. `tool` is "brush", "rectangle" or "ellipse"; `size` is the
        // brush's width as a share of the shorter side.
        begin(point, {tool, size, isErasing}) {
            this.note();
            Object.assign(this, {tool, size, isErasing, start: point, last: point});
            const pen = ipAdapter.masks.penOf(ipAdapter.masks.clear(this.before));
            pen.drawImage(this.mask, 0, 0);
            this.move(point);
        }
        move(point) {
            const {penOf, clear} = ipAdapter.masks, isBrush = this.tool === "brush";
            const pen = penOf(isBrush ? this.mask : clear(this.mask));
            if (!isBrush) pen.drawImage(this.before, 0, 0);
            pen.globalCompositeOperation = this.isErasing ? "destination-out" : "source-over";
            if (isBrush) this.drawLine(pen, point);
            else this.drawShape(pen, point);
            pen.globalCompositeOperation = "source-over";
            this.last = point;
            this.drawSoon();
        }
        drawLine(pen, [x, y]) {
            pen.strokeStyle = "white";
            pen.lineWidth = this.size * this.shorter;
            pen.lineCap = pen.lineJoin = "round";
            pen.beginPath();
            pen.moveTo(...this.last);
            pen.lineTo(x + 0.01, y);  // a line without a length would not be drawn
            pen.stroke();
        }
        drawShape(pen, [x, y]) {
            const [left, top] = [Math.min(x, this.start[0]), Math.min(y, this.start[1])];
            const [width, height] = [Math.abs(x - this.start[0]), Math.abs(y - this.start[1])];
            pen.fillStyle = "white";
            pen.beginPath();
            if (this.tool === "rectangle") pen.rect(left, top, width, height);
            else pen.ellipse(left + width / 2, top + height / 2, width / 2, height / 2, 0, 0, 2 * Math.PI);
            pen.fill();
        }

        drawSoon() {
            this.frame ??= requestAnimationFrame(() => {
                this.frame = null;
                this.draw();
            });
        }
        draw() {
            const {penOf, clear, feathered} = ipAdapter.masks, {width, height} = this.view;
            const soft = this.feather > 0 ? feathered(this.mask, this.feather) : this.mask;
            const pen = penOf(clear(this.view));
            pen.globalAlpha = 0.7;
            pen.fillStyle = "black";
            pen.fillRect(0, 0, width, height);
            pen.globalAlpha = 1;
            pen.globalCompositeOperation = "destination-out";
            pen.drawImage(soft, 0, 0, width, height);
            pen.globalCompositeOperation = "source-over";
            if (this.number && this.others.length) this.drawUnit(pen, soft, this.number, 0.15);
            for (const {number, mask} of this.others) this.drawUnit(pen, mask, number, 0.4);
            if (this.cursor) this.drawCursor(pen);
        }
        // A unit's region in its colour, with its number. Those of others stay as they are: they are coloured once.
        drawUnit(pen, mask, number, opacity) {
            const isOwn = number === this.number, tint = (!isOwn && this.tints.get(mask)) || this.tinted(mask, number);
            if (!isOwn) this.tints.set(mask, tint);
            pen.globalAlpha = opacity;
            pen.drawImage(tint.canvas, 0, 0);
            pen.globalAlpha = 1;
            if (!tint.middle) return;
            pen.font = `bold ${Math.round(0.09 * this.shorter)}px sans-serif`;
            pen.textAlign = "center";
            pen.textBaseline = "middle";
            pen.lineWidth = 0.012 * this.shorter;
            pen.strokeStyle = "black";
            pen.strokeText(number, ...tint.middle);
            pen.fillStyle = colourOf(number);
            pen.fillText(number, ...tint.middle);
        }
        // `middle`: of what counts, null where nothing does.
        tinted(mask, number) {
            const {canvasOf, penOf, alphaOf} = ipAdapter.masks, {width, height} = this.view;
            const canvas = canvasOf([width, height]), pen = penOf(canvas);
            pen.drawImage(mask, 0, 0, width, height);
            pen.globalCompositeOperation = "source-in";
            pen.fillStyle = colourOf(number);
            pen.fillRect(0, 0, width, height);
            const few = canvasOf([32, 32]);
            penOf(few).drawImage(mask, 0, 0, 32, 32);
            const alpha = alphaOf(few), total = alpha.reduce((sum, value) => sum + value, 0);
            const mean = (place) => alpha.reduce((sum, value, i) => sum + value * (place(i) + 0.5), 0) / total / 32;
            const middle = total && [mean((i) => i % 32) * width, mean((i) => Math.floor(i / 32)) * height];
            return {canvas, middle};
        }
        drawCursor(pen) {
            for (const [colour, width] of [["black", 0.009], ["white", 0.004]]) {
                const [x, y] = this.cursor, length = 0.03 * this.shorter;
                pen.strokeStyle = colour;
                pen.lineWidth = width * this.shorter;
                pen.beginPath();
                pen.moveTo(x - length, y);
                pen.lineTo(x + length, y);
                pen.moveTo(x, y - length);
                pen.lineTo(x, y + length);
                pen.stroke();
            }
        }
    }

    // The dialog's controls

    function radios(tools) {
        const group = element("span", {label: "Tool", className: "ip-adapter-painter-tools"});
        group.setAttribute("role", "radiogroup");
        for (const [value, text, title] of tools) {
            const field = element("input", {type: "radio", name: "ip-adapter-tool", value, checked: value === "brush"});
            group.append(element("label", {title}, field, element("span", {textContent: text})));
        }
        return group;
    }
    function slider(text, title, label, settings) {
        const field = element("input", {type: "range", label, ...settings});
        return [element("label", {title}, element("span", {textContent: text}), field), field];
    }
    // Takes a mask out of a file that is chosen.
    function fileField(painting, hint) {
        const field = element("input", {type: "file", accept: "image/*", hidden: true});
        field.onchange = async () => {
            const [chosen] = field.files;
            field.value = "";  // the same one, chosen again, is a change
            if (!chosen) return;  // the chooser was closed without one
            const address = URL.createObjectURL(chosen);
            try {
                const picture = await ipAdapter.masks.load(address);
                painting.change((mask) => ipAdapter.masks.take(mask, picture));
                hint.textContent = HINT;
            } catch {
                hint.textContent = "This file is no picture: choose a PNG, JPEG or WebP.";
            } finally {
                URL.revokeObjectURL(address);
            }
        };
        return field;
    }
    // Buttons that set all of the mask at once. Halves and what is left are for regions.
    function wholes(painting, file) {
        const {takePart, takeRest, invert, fill, clear} = ipAdapter.masks;
        const set = (text, title, how) => button(text, title, () => painting.change(how));
        const part = (text, title) => set(text, title, (mask) => takePart(mask, text.toLowerCase()));
        const others = painting.others.map(({mask}) => mask);
        const rest = set("What the others leave", "All that no other unit's region covers", (mask) => takeRest(mask, others));
        return element("div", {},
            ...painting.number ? [
                part("Left", "The left half counts"), part("Right", "The right half counts"),
                part("Top", "The upper half counts"), part("Bottom", "The lower half counts"),
            ] : [],
            ...others.length ? [rest] : [],
            set("Invert", "Exchange what counts and what does not", invert),
            set("Everything", "All of it counts", fill), set("Nothing", "None of it counts", clear),
            button("From a file …", "Take a picture as the mask: white counts", () => file.click()), file,
        );
    }
    function legend(painting) {
        const units = [painting.number, ...painting.others.map(({number}) => number)].sort((a, b) => a - b);
        return element("div", {className: "ip-adapter-painter-units", label: "Units with a region"}, ...units.map((number) => {
            const sign = element("i");
            sign.style.background = colourOf(number);
            return element(number === painting.number ? "strong" : "span", {}, sign, `Unit ${number}`);
        }));
    }

    // Hands: pointers and touch, which may begin beside the picture or come in from there; and on the picture, when it has
    // the focus, the arrow keys, with the space bar as the button.

    function connectHands(painting, stage, settings) {
        const {view} = painting;
        let pointer = null, isDown = false;
        function pointOf(event) {
            const {left, top, width, height} = view.getBoundingClientRect();
            return [(event.clientX - left) / width * view.width, (event.clientY - top) / height * view.height];
        }
        function begin(event) {
            if (pointer !== null || !(event.buttons & 1)) return;  // a second finger, another button
            pointer = event.pointerId;
            stage.setPointerCapture(pointer);
            painting.cursor = null;
            painting.begin(pointOf(event), settings());
        }
        stage.onpointerdown = begin;
        stage.onpointermove = (event) => {
            if (event.pointerId === pointer) painting.move(pointOf(event));
            else begin(event);
        };
        stage.onpointerup = stage.onpointercancel = stage.onlostpointercapture = (event) => {
            if (event.pointerId === pointer) pointer = null;
        };
        view.onkeydown = (event) => {
            const [right, down] = {
                ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
            }[event.key] ?? [0, 0];
            if (!right && !down && event.key !== " ") return;
            event.preventDefault();
            const step = STEP * painting.shorter * (event.shiftKey ? 5 : 1);
            const [x, y] = painting.cursor ?? [view.width / 2, view.height / 2];
            const within = (place, end) => Math.min(end, Math.max(0, place));
            painting.cursor = [within(x + right * step, view.width), within(y + down * step, view.height)];
            if (event.key === " ") {
                isDown = !isDown;
                if (isDown) painting.begin(painting.cursor, settings());
            } else if (isDown) {
                painting.move(painting.cursor);
            }
            painting.drawSoon();
        };
        view.onblur = () => {
            isDown = false;
            painting.cursor = null;
            painting.drawSoon();
        };
    }

    function onKey(event, {dialog, painting, brush, accept}) {
        event.stopPropagation();  // the page's own keys stay out of it: Escape would interrupt a job
        const isCommand = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
        if (isCommand && (key === "y" || (key === "z" && event.shiftKey))) painting.redo();
        else if (isCommand && key === "z") painting.undo();
        else if (key === "[" || key === "]") brush[key === "[" ? "stepDown" : "stepUp"](3);
        else if (key === "enter" && !event.target.matches("button") && dialog.contains(event.target)) accept();
        else return;
        event.preventDefault();
    }

    // The row of tools. `settings` gives what a stroke is begun with.
    function toolRow(painting) {
        const tools = radios([
            ["brush", "Brush", "Paint freely"], ["rectangle", "Rectangle", "Drag from corner to corner"],
            ["ellipse", "Ellipse", "Drag from corner to corner of what it fills"],
        ]);
        const isErasing = element("input", {type: "checkbox"}), text = element("span", {textContent: "Erase"});
        const eraser = element("label", {title: "Take away instead of adding"}, isErasing, text);
        const [size, brush] = slider(
            "Size", "How broad the brush is: [ and ]", "Size of the brush", {min: 1, max: 50, value: 12},
        );
        const undo = button("Undo", "Take the last step back: Ctrl+Z", () => painting.undo());
        const redo = button("Redo", "Take it again: Ctrl+Shift+Z", () => painting.redo());
        painting.onChange = () => {
            undo.disabled = !painting.done.length;
            redo.disabled = !painting.undone.length;
        };
        painting.onChange();
        const chosen = () => tools.querySelector(":checked");
        const settings = () => ({tool: chosen().value, size: brush.value / 50, isErasing: isErasing.checked});
        return {row: element("div", {}, tools, eraser, size, undo, redo), brush, chosen, settings};
    }
    function featherRow(painting) {
        const [row, feather] = slider(
            "Feather", "How soft the edge is: what is seen here is what the unit does", "Region feather",
            {min: 0, max: 1, step: 0.01, value: painting.feather},
        );
        feather.oninput = () => {
            painting.feather = Number(feather.value);
            painting.drawSoon();
        };
        return row;
    }
    function stageOf({painting, background, fit, ratio, settings}) {
        const paper = element("div", {className: "ip-adapter-painter-paper"});
        const stage = element("div", {className: "ip-adapter-painter-stage"}, paper), {view} = painting;
        paper.style.setProperty("--ratio", ratio);
        if (background) {
            const picture = element("img", {src: background, alt: "", draggable: false});
            picture.style.objectFit = fit;
            paper.append(picture);
        }
        paper.append(view);
        view.tabIndex = 0;
        view.setAttribute("role", "application");
        view.setAttribute("aria-label", "The picture: arrow keys move, the space bar begins and ends a stroke");
        connectHands(painting, stage, settings);
        return stage;
    }
    // What is asked before a mask in which nothing counts.
    function emptyQuestion(painting, goWithout) {
        const goOn = button("Paint on", "Back to the picture", () => { question.hidden = true; painting.view.focus(); });
        const without = button("Go without a mask", "All of the picture counts, as without a mask", goWithout);
        const textContent = painting.number
            ? "Nothing is painted, so the unit would act nowhere."
            : "Nothing is painted, so nothing of the reference would count.";
        const text = element("span", {className: "ip-adapter-problem", textContent});
        const question = element("div", {hidden: true}, text, goOn, without);
        question.setAttribute("role", "alert");
        return {question, ask: () => { question.hidden = false; goOn.focus(); }};
    }
    function show({title, painting, background, fit, ratio}) {
        const hint = element("small", {textContent: HINT});
        hint.setAttribute("role", "status");
        const {row, brush, chosen, settings} = toolRow(painting);
        const stage = stageOf({painting, background, fit, ratio, settings});
        return new Promise((resolve) => {
            const dialog = element("dialog", {className: "ip-adapter-painter", label: title});
            const finish = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
            const {question, ask} = emptyQuestion(painting, () => finish({isRemoved: true}));
            async function accept() {
                if (ipAdapter.masks.isEmpty(painting.mask)) return ask();
                finish({file: await ipAdapter.masks.toPng(painting.mask), feather: painting.feather});
            }
            const cancel = button("Cancel", "Leave the mask as it was: Escape", () => finish(null));
            const use = Object.assign(button("Use this mask", "Take it: Enter", accept), {className: "primary"});
            dialog.append(
                element("div", {className: "ip-adapter-painter-head"},
                    element("strong", {textContent: title}), hint, row, wholes(painting, fileField(painting, hint))),
                stage,
                element("div", {className: "ip-adapter-painter-foot"},
                    ...painting.number ? [featherRow(painting)] : [], ...painting.others.length ? [legend(painting)] : [],
                    question, element("div", {className: "ip-adapter-painter-end"}, cancel, use)),
            );
            dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
            dialog.addEventListener("keydown", (event) => onKey(event, {dialog, painting, brush, accept}));
            (document.querySelector(".gradio-container") ?? document.body).append(dialog);
            ipAdapter.translate(dialog);
            painting.draw();
            dialog.showModal();
            chosen().focus({focusVisible: false});
        });
    }

    // `background`: the address of the picture below the mask, which fills its frame as `fit` says (as CSS's object-fit),
    // or null; `shape`: the mask's, null for the picture's own, no longer than `longest`; `start`: the mask as it is, the
    // address of a picture or null. `number`: the unit's, where it is its region, and `others`: other units' numbers and
    // masks. The answer is {file, feather}, a PNG and the softness of its edges; {isRemoved}, where there is to be no
    // mask; or null if nothing is to change.
    return async ({title, background, fit = "fill", shape, longest, start, number = null, others = [], feather = 0}) => {
        await ipAdapter.loadSubject("masks");
        if (document.querySelector(".ip-adapter-painter")) return null;
        if (!shape) {
            const picture = await ipAdapter.masks.load(background);
            shape = [picture.naturalWidth, picture.naturalHeight];
        }
        const painting = new Painting({shape: ipAdapter.masks.within(shape, longest, LEAST_SIDE), number, others});
        painting.feather = feather;
        if (start) ipAdapter.masks.take(painting.mask, await ipAdapter.masks.load(start));
        return show({title, painting, background, fit, ratio: shape[0] / shape[1]});
    };
})();
