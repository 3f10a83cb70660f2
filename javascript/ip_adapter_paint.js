// A dialog in which a mask is painted over a picture, or taken from a file: white where something counts.
const ipAdapterPaint = (() => {
    const LONGEST = 1024; // pixels of the mask's longer side
    const make = (name, properties = {}, ...children) => {
        const element = Object.assign(document.createElement(name), properties);
        element.append(...children);
        return element;
    };
    function loaded(address) {
        return new Promise((resolve, reject) => {
            const image = new Image();
            image.onload = () => resolve(image);
            image.onerror = reject;
            image.src = address;
        });
    }
    const canvasOf = ([width, height]) => make("canvas", {width, height});

    // A mask is kept as white of any opacity. ``picture``: what is light in it becomes opaque.
    function fromPicture(canvas, picture) {
        const pen = canvas.getContext("2d");
        pen.clearRect(0, 0, canvas.width, canvas.height);
        pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
        const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < pixels.data.length; i += 4) {
            const [r, g, b, a] = pixels.data.subarray(i, i + 4);
            pixels.data.set([255, 255, 255, (0.299 * r + 0.587 * g + 0.114 * b) * a / 255], i);
        }
        pen.putImageData(pixels, 0, 0);
    }
    function inverted(canvas) {
        const other = canvasOf([canvas.width, canvas.height]), pen = other.getContext("2d");
        pen.fillStyle = "white";
        pen.fillRect(0, 0, other.width, other.height);
        pen.globalCompositeOperation = "destination-out";
        pen.drawImage(canvas, 0, 0);
        return other;
    }
    function file(mask) {
        const flat = canvasOf([mask.width, mask.height]), pen = flat.getContext("2d");
        pen.fillRect(0, 0, flat.width, flat.height);
        pen.drawImage(mask, 0, 0);
        return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
    }

    // ``background``: address of the picture below, or null for an empty one of ``size``; ``start``: address of the
    // mask as it is, or null. The answer is a PNG, or null if nothing is to change.
    async function open({title, background, size, start}) {
        const picture = background ? await loaded(background) : null;
        const [width, height] = picture ? [picture.naturalWidth, picture.naturalHeight] : size;
        const scale = Math.min(1, LONGEST / Math.max(width, height));
        const shape = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
        const view = canvasOf(shape), mask = canvasOf(shape);
        if (start) fromPicture(mask, await loaded(start));

        const pen = mask.getContext("2d"), screen = view.getContext("2d");
        function redraw() {
            screen.globalCompositeOperation = "source-over";
            screen.clearRect(0, 0, view.width, view.height);
            screen.globalAlpha = 0.75; // what does not count lies in the dark
            screen.fillStyle = "black";
            screen.fillRect(0, 0, view.width, view.height);
            screen.globalAlpha = 1;
            screen.globalCompositeOperation = "destination-out";
            screen.drawImage(mask, 0, 0);
            screen.globalCompositeOperation = "destination-over";
            if (picture) {
                screen.drawImage(picture, 0, 0, view.width, view.height);
            } else {
                screen.fillStyle = "#b9bec8";
                screen.fillRect(0, 0, view.width, view.height);
            }
        }

        const brush = make("input", {type: "range", min: 1, max: 50, value: 12});
        let erasing = false, last = null;
        function place(event) {
            const box = view.getBoundingClientRect();
            return [(event.clientX - box.left) / box.width * view.width, (event.clientY - box.top) / box.height * view.height];
        }
        function stroke(event) {
            const now = place(event);
            pen.globalCompositeOperation = erasing ? "destination-out" : "source-over";
            pen.strokeStyle = "white";
            pen.lineWidth = brush.value / 100 * Math.min(...shape) * 2;
            pen.lineCap = pen.lineJoin = "round";
            pen.beginPath();
            pen.moveTo(...(last ?? now));
            pen.lineTo(now[0] + 0.01, now[1]);
            pen.stroke();
            pen.globalCompositeOperation = "source-over";
            last = now;
            redraw();
        }
        view.onpointerdown = (event) => { view.setPointerCapture(event.pointerId); last = null; stroke(event); };
        view.onpointermove = (event) => { if (event.buttons) stroke(event); };
        function replace(canvas) {
            pen.clearRect(0, 0, mask.width, mask.height);
            if (canvas) pen.drawImage(canvas, 0, 0);
            redraw();
        }

        const chosen = make("input", {type: "file", accept: "image/*", hidden: true});
        chosen.onchange = async () => {
            try {
                fromPicture(mask, await loaded(URL.createObjectURL(chosen.files[0])));
            } catch {
                hint.textContent = "This file is no picture: choose a PNG, JPEG or WebP.";
            }
            redraw();
        };
        const hint = make("small", {textContent: "Paint over what counts. What stays dark does not."});
        const button = (textContent, title, onclick) => make("button", {type: "button", textContent, title, onclick});
        const eraser = button("Erase", "Paint with darkness", () => {
            erasing = !erasing;
            eraser.setAttribute("aria-pressed", erasing);
        });
        eraser.setAttribute("aria-pressed", "false");
        return new Promise((resolve) => {
            const dialog = make("dialog", {className: "ip-adapter-painter"});
            const finish = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
            dialog.append(
                make("strong", {textContent: title}), hint, view,
                make("div", {}, make("label", {textContent: "Brush "}, brush), eraser,
                    button("Invert", "Exchange what counts and what does not", () => replace(inverted(mask))),
                    button("Everything", "All of it counts", () => { replace(null); replace(inverted(mask)); }),
                    button("Nothing", "None of it counts", () => replace(null)),
                    button("From a file …", "Take a picture as the mask: white counts", () => chosen.click()), chosen),
                make("div", {className: "ip-adapter-painter-end"},
                    button("Cancel", "Leave the mask as it was", () => finish(null)),
                    Object.assign(button("Use this mask", "", async () => finish(await file(mask))), {className: "primary"})),
            );
            dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
            (document.querySelector(".gradio-container") ?? document.body).append(dialog);
            redraw();
            dialog.showModal();
        });
    }
    return open;
})();
