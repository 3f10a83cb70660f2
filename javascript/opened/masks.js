// Masks as canvases: white whose opacity says how much counts. What the painter and the region line make of them.
(window.ipAdapter ??= {}).masks = (() => {
    // The region's parts that have a button of their own: left, top, width and height as shares of the picture.
    const PARTS = {left: [0, 0, 0.5, 1], right: [0.5, 0, 0.5, 1], top: [0, 0, 1, 0.5], bottom: [0, 0.5, 1, 0.5]};
    function canvasOf([width, height]) {
        const canvas = Object.assign(document.createElement("canvas"), {width, height});
        canvas.getContext("2d", {willReadFrequently: true});
        return canvas;
    }
    const penOf = (canvas) => canvas.getContext("2d");
    const shapeOf = ({width, height}) => [width, height];
    // `shape`, no longer than `longest` on its longer side, and no shorter than `least`.
    function within(shape, longest, least = 1) {
        const longer = Math.max(...shape), scale = Math.min(longest, Math.max(least, longer)) / longer;
        return shape.map((side) => Math.max(1, Math.round(side * scale)));
    }
    function load(address) {
        return new Promise((resolve, reject) => {
            const image = new Image();
            image.onload = () => resolve(image);
            image.onerror = () => reject(new Error("IP-Adapter: this is no picture"));
            image.src = address;
        });
    }

    function clear(canvas) {
        penOf(canvas).clearRect(0, 0, canvas.width, canvas.height);
        return canvas;
    }
    function fill(canvas) {
        const pen = penOf(clear(canvas));
        pen.fillStyle = "white";
        pen.fillRect(0, 0, canvas.width, canvas.height);
        return canvas;
    }
    function invert(canvas) {
        const pen = penOf(canvas);
        pen.globalCompositeOperation = "source-out";
        pen.fillStyle = "white";
        pen.fillRect(0, 0, canvas.width, canvas.height);
        pen.globalCompositeOperation = "source-over";
        return canvas;
    }
    // A picture becomes the mask: the lighter it is somewhere, the more counts there.
    function take(canvas, picture) {
        const {width, height} = canvas, pen = penOf(clear(canvas));
        pen.drawImage(picture, 0, 0, width, height);
        const pixels = pen.getImageData(0, 0, width, height), {data} = pixels;
        for (let i = 0; i < data.length; i += 4) {
            data[i + 3] = (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) * data[i + 3] / 255 + 0.5;
            data[i] = data[i + 1] = data[i + 2] = 255;
        }
        pen.putImageData(pixels, 0, 0);
        return canvas;
    }
    function takePart(canvas, name) {
        const {width, height} = canvas, [left, top, across, down] = PARTS[name], pen = penOf(clear(canvas));
        pen.fillStyle = "white";
        pen.fillRect(left * width, top * height, across * width, down * height);
        return canvas;
    }
    // What `others` (masks of any size) leave of the whole.
    function takeRest(canvas, others) {
        const pen = penOf(clear(canvas));
        pen.globalCompositeOperation = "lighter";
        for (const other of others) pen.drawImage(other, 0, 0, canvas.width, canvas.height);
        return invert(canvas);
    }

    // The opacities alone, a byte for each pixel.
    function alphaOf(canvas) {
        const {data} = penOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
        const alpha = new Uint8ClampedArray(data.length / 4);
        for (let i = 0; i < alpha.length; i++) alpha[i] = data[4 * i + 3];
        return alpha;
    }
    function takeAlpha(canvas, alpha) {
        const pixels = new ImageData(canvas.width, canvas.height);
        pixels.data.fill(255);
        for (let i = 0; i < alpha.length; i++) pixels.data[4 * i + 3] = alpha[i];
        penOf(canvas).putImageData(pixels, 0, 0);
        return canvas;
    }
    const isEmpty = (canvas) => alphaOf(canvas).every((value) => value === 0);

    // The mask with soft edges, as the server makes them (attend/regions.py): shrunk, blurred by a Gaussian of deviation
    // feather / 4 of the shorter side, and beyond the borders as it ends. Wide edges need fewer pixels to look the same.
    function feathered(canvas, feather) {
        const side = feather > 0.25 ? 128 : 256, scale = side / Math.min(canvas.width, canvas.height);
        const shape = shapeOf(canvas).map((length) => Math.max(1, Math.round(length * scale)));
        const small = canvasOf(shape), pen = penOf(small);
        pen.imageSmoothingQuality = "high";
        pen.drawImage(canvas, 0, 0, ...shape);
        const deviation = feather * side / 4, reach = Math.ceil(3 * deviation);
        const kernel = Float32Array.from({length: 2 * reach + 1}, (_, i) => {
            return Math.exp(-((i - reach) ** 2) / (2 * deviation ** 2));
        });
        const sum = kernel.reduce((total, value) => total + value, 0);
        const [width, height] = shape;
        const across = blurred(Float32Array.from(alphaOf(small)), width, height, kernel.map((value) => value / sum));
        return takeAlpha(small, blurred(across, height, width, kernel.map((value) => value / sum)));
    }
    // Rows of `values`, each blurred; they are given back as columns.
    function blurred(values, width, height, kernel) {
        const reach = (kernel.length - 1) / 2, made = new Float32Array(values.length);
        const row = new Float32Array(width + 2 * reach);
        for (let y = 0; y < height; y++) {
            row.fill(values[y * width], 0, reach);
            row.set(values.subarray(y * width, (y + 1) * width), reach);
            row.fill(values[(y + 1) * width - 1], reach + width);
            for (let x = 0; x < width; x++) {
                let total = 0;
                for (let i = 0; i < kernel.length; i++) total += kernel[i] * row[x + i];
                made[x * height + y] = total;
            }
        }
        return made;
    }

    function toPng(canvas) {
        const flat = canvasOf(shapeOf(canvas)), pen = penOf(flat);
        pen.fillRect(0, 0, flat.width, flat.height);
        pen.drawImage(canvas, 0, 0);
        return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
    }
    return {
        canvasOf, penOf, shapeOf, within, load, clear, fill, invert, take, takePart, takeRest, alphaOf, takeAlpha, isEmpty,
        feathered, toPng,
    };
})();
