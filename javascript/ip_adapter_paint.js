// A dialog in which a mask is painted over a picture, or taken from a file: white where something counts.
(window.ipAdapter ??= {}).paint = (() => {
    const LONGEST_SIDE = 1024;  // of a mask, in pixels
    const HINT = "Paint over what counts. What stays dark does not.";
    function element(name, properties = {}, ...children) {
        const made = Object.assign(document.createElement(name), properties);
        made.append(...children);
        return made;
    }
    const canvasOf = ([width, height]) => element("canvas", {width, height});
    const clear = (canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    function load(address) {
        return new Promise((resolve, reject) => {
            const image = new Image();
            image.onload = () => resolve(image);
            image.onerror = reject;
            image.src = address;
        });
    }

    // A mask while it is painted: white whose opacity says how much counts. `picture` lies below it, or null. On the
    // canvas `view` stands what a person sees: the picture, dark where it does not count.
    class Mask {
        constructor(shape, picture) {
            this.picture = picture;
            this.canvas = canvasOf(shape);
            this.view = canvasOf(shape);
            this.pen = this.canvas.getContext("2d");
        }
        drawView() {
            const {width, height} = this.view, pen = this.view.getContext("2d");
            pen.globalCompositeOperation = "source-over";
            clear(this.view);
            pen.globalAlpha = 0.75;
            pen.fillStyle = "black";
            pen.fillRect(0, 0, width, height);
            pen.globalAlpha = 1;
            pen.globalCompositeOperation = "destination-out";
            pen.drawImage(this.canvas, 0, 0);
            pen.globalCompositeOperation = "destination-over";
            pen.fillStyle = "#b9bec8";
            if (this.picture) pen.drawImage(this.picture, 0, 0, width, height);
            else pen.fillRect(0, 0, width, height);
        }
        // Where the pointer is, in pixels of the mask.
        pointOf(event) {
            const {left, top, width, height} = this.view.getBoundingClientRect();
            return [
                (event.clientX - left) / width * this.view.width, (event.clientY - top) / height * this.view.height,
            ];
        }
        // `share`: the line's width as a share of the mask's shorter side.
        drawLine(from, to, share, isErasing) {
            this.pen.globalCompositeOperation = isErasing ? "destination-out" : "source-over";
            this.pen.strokeStyle = "white";
            this.pen.lineWidth = share * Math.min(this.canvas.width, this.canvas.height);
            this.pen.lineCap = this.pen.lineJoin = "round";
            this.pen.beginPath();
            this.pen.moveTo(...from);
            this.pen.lineTo(to[0] + 0.01, to[1]);  // a line without a length would not be drawn
            this.pen.stroke();
            this.pen.globalCompositeOperation = "source-over";
            this.drawView();
        }
        // A picture becomes the mask: the lighter it is somewhere, the more counts there.
        take(picture) {
            clear(this.canvas);
            this.pen.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
            const pixels = this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
            for (let i = 0; i < pixels.data.length; i += 4) {
                const [r, g, b, a] = pixels.data.subarray(i, i + 4);
                pixels.data.set([255, 255, 255, (0.299 * r + 0.587 * g + 0.114 * b) * a / 255], i);
            }
            this.pen.putImageData(pixels, 0, 0);
            this.drawView();
        }
        empty() {
            clear(this.canvas);
            this.drawView();
        }
        invert() {
            this.pen.globalCompositeOperation = "source-out";
            this.pen.fillStyle = "white";
            this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
            this.pen.globalCompositeOperation = "source-over";
            this.drawView();
        }
        toPng() {
            const flat = canvasOf([this.canvas.width, this.canvas.height]), pen = flat.getContext("2d");
            pen.fillRect(0, 0, flat.width, flat.height);
            pen.drawImage(this.canvas, 0, 0);
            return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
        }
    }

    const button = (textContent, title, onclick) => element("button", {type: "button", textContent, title, onclick});
    function showDialog(title, mask) {
        const hint = element("small", {textContent: HINT});
        const brush = element("input", {type: "range", min: 1, max: 50, value: 12});
        let isErasing = false, last = null;
        const eraser = button("Erase", "Paint with darkness", () => {
            isErasing = !isErasing;
            eraser.setAttribute("aria-pressed", isErasing);
        });
        eraser.setAttribute("aria-pressed", "false");
        function stroke(event) {
            const point = mask.pointOf(event);
            mask.drawLine(last ?? point, point, brush.value / 50, isErasing);
            last = point;
        }
        mask.view.onpointerdown = (event) => {
            mask.view.setPointerCapture(event.pointerId);
            last = null;
            stroke(event);
        };
        mask.view.onpointermove = (event) => { if (event.buttons) stroke(event); };
        const file = element("input", {type: "file", accept: "image/*", hidden: true});
        file.onchange = async () => {
            const [chosen] = file.files;
            file.value = "";  // the same one, chosen again, is a change
            if (!chosen) return;  // the chooser was closed without one
            const address = URL.createObjectURL(chosen);
            try {
                mask.take(await load(address));
                hint.textContent = HINT;
            } catch {
                hint.textContent = "This file is no picture: choose a PNG, JPEG or WebP.";
            } finally {
                URL.revokeObjectURL(address);
            }
        };
        return new Promise((resolve) => {
            const dialog = element("dialog", {className: "ip-adapter-painter"});
            const finish = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
            const use = button("Use this mask", "", async () => finish(await mask.toPng()));
            use.className = "primary";
            dialog.append(
                element("strong", {textContent: title}), hint, mask.view,
                element("div", {}, element("label", {textContent: "Brush "}, brush), eraser,
                    button("Invert", "Exchange what counts and what does not", () => mask.invert()),
                    button("Everything", "All of it counts", () => { mask.empty(); mask.invert(); }),
                    button("Nothing", "None of it counts", () => mask.empty()),
                    button("From a file …", "Take a picture as the mask: white counts", () => file.click()), file),
                element("div", {className: "ip-adapter-painter-end"},
                    button("Cancel", "Leave the mask as it was", () => finish(null)), use),
            );
            dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
            (document.querySelector(".gradio-container") ?? document.body).append(dialog);
            mask.drawView();
            dialog.showModal();
        });
    }

    // `background`: the address of the picture below the mask, or null for an empty one of `size`; `start`: the address
    // of the mask as it is, or null. The answer is a PNG, or null if nothing is to change.
    return async ({title, background, size, start}) => {
        const picture = background ? await load(background) : null;
        const [width, height] = picture ? [picture.naturalWidth, picture.naturalHeight] : size;
        const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
        const mask = new Mask([width, height].map((side) => Math.max(1, Math.round(side * scale))), picture);
        if (start) mask.take(await load(start));
        return showDialog(title, mask);
    };
})();
