// A mask while it is painted: strokes and shapes, what can be undone, and how it is seen.
(window.ipAdapter ??= {}).painting = (() => {
    const UNDO_BYTES = 96 * 2 ** 20;  // of steps that can be undone
    // Of the units, in their order; light enough for a dark ground, and apart for eyes that see fewer colours.
    const COLOURS = [
        "#56b4e9", "#e69f00", "#2fbf8f", "#f0e442", "#cc79a7", "#6f8cff", "#e8602c", "#b0b0b0", "#9be15d", "#c59bff",
    ];
    const colourOf = (number) => COLOURS[(number - 1) % COLOURS.length];

    // `shape`: width and height in pixels; `number`: the unit's whose region it is, or null; `others`: other units'
    // numbers and masks. On the canvas `view`, which lies over the picture, stands what a person sees: darkness where
    // the mask does not count, its soft edges, and the other units' regions.
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

        // Strokes and shapes, by points in pixels of the mask. `tool` is "brush", "rectangle" or "ellipse"; `size` is
        // the brush's width as a share of the shorter side.
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
    return {Painting, colourOf};
})();
