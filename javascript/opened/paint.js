// A dialog, as large as the screen, in which a mask is painted over a picture or taken from a file: white where
// something counts. Everything in it can be done by keyboard, too.
(window.ipAdapter ??= {}).paint = (() => {
    const HINT = "Paint over what counts. What stays dark does not.";
    const LEAST_SIDE = 768;  // of a mask, in pixels, for edges without steps on a small picture
    const STEP = 0.02;  // how far an arrow key moves, as a share of the shorter side

    function element(name, properties = {}, ...children) {
        const {label, ...own} = properties, made = Object.assign(document.createElement(name), own);
        if (label) made.setAttribute("aria-label", label);
        made.append(...children);
        return made;
    }
    const button = (textContent, title, onclick) => element("button", {type: "button", textContent, title, onclick});

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
        const takeLeft = (mask) => takeRest(mask, others);
        const tip = painting.isOfReference
            ? "All that no other reference's region covers" : "All that no other unit's region covers";
        const rest = set("What the others leave", tip, takeLeft);
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
        const names = units.map((number) => {
            const sign = element("i");
            sign.style.background = ipAdapter.painting.colourOf(number);
            const name = painting.isOfReference ? `Reference ${number}` : `Unit ${number}`;
            return element(number === painting.number ? "strong" : "span", {}, sign, name);
        });
        const label = painting.isOfReference ? "References with a region" : "Units with a region";
        return element("div", {className: "ip-adapter-painter-units", label}, ...names);
    }

    // Hands: pointers and touch, which may begin beside the picture or come in from there; and on the picture, when it
    // has the focus, the arrow keys, with the space bar as the button.

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
        const goOn = button("Paint on", "Back to the picture", () => {
            question.hidden = true;
            painting.view.focus();
        });
        const without = button("Go without a mask", "All of the picture counts, as without a mask", goWithout);
        const nowhere = painting.isOfReference
            ? "Nothing is painted, so the reference would act nowhere."
            : "Nothing is painted, so the unit would act nowhere.";
        const textContent = painting.number ? nowhere : "Nothing is painted, so nothing of the reference would count.";
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
                    ...painting.number ? [featherRow(painting)] : [],
                    ...painting.others.length ? [legend(painting)] : [],
                    question, element("div", {className: "ip-adapter-painter-end"}, cancel, use)),
            );
            dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
            dialog.addEventListener("keydown", (event) => onKey(event, {dialog, painting, brush, accept}));
            (document.querySelector(".gradio-container") ?? document.body).append(dialog);
            painting.draw();
            dialog.showModal();
            chosen().focus({focusVisible: false});
        });
    }

    // `background`: the address of the picture below the mask, which fills its frame as `fit` says (as CSS's
    // object-fit), or null; `shape`: the mask's, null for the picture's own, no longer than `longest`; `start`: the
    // address of a picture of the mask as it is, or null. `number`: the unit's, where it is its region, and `others`:
    // other units' numbers and masks; or, where it `isOfReference`, a reference's and other references'. The answer is
    // {file, feather}, a PNG and the softness of its edges; {isRemoved}, where there is to be no mask; or null if nothing
    // is to change.
    return async ({
        title, background, fit = "fill", shape, longest, start, number = null, others = [], feather = 0,
        isOfReference = false,
    }) => {
        await Promise.all(["masks", "painting"].map(ipAdapter.loadSubject));
        if (document.querySelector(".ip-adapter-painter")) return null;
        if (!shape) {
            const picture = await ipAdapter.masks.load(background);
            shape = [picture.naturalWidth, picture.naturalHeight];
        }
        const within = ipAdapter.masks.within(shape, longest, LEAST_SIDE);
        const painting = new ipAdapter.painting.Painting({shape: within, number, others});
        Object.assign(painting, {feather, isOfReference});
        if (start) ipAdapter.masks.take(painting.mask, await ipAdapter.masks.load(start));
        return show({title, painting, background, fit, ratio: shape[0] / shape[1]});
    };
})();
