// A picture is drawn by the browser into a file that the server reads: PNG, or JPEG where it was one.
ipAdapter.redraw = async (image, type) => {
    const MOST_PIXELS = 24_000_000, LARGE = 12_000_000, SHORT = 1024;  // pixels; of a drawing's longer side
    let [width, height] = [image.naturalWidth || SHORT, image.naturalHeight || SHORT];
    const isDrawing = type === "image/svg+xml";
    const smaller = width * height > MOST_PIXELS ? Math.sqrt(LARGE / (width * height)) : 1;
    const scale = isDrawing && smaller === 1 ? Math.max(1, SHORT / Math.max(width, height)) : smaller;
    [width, height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = Object.assign(document.createElement("canvas"), {width, height}), pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, 0, 0, width, height);
    const drawing = await new Promise((resolve) => {
        canvas.toBlob(resolve, type === "image/jpeg" ? "image/jpeg" : "image/png", 0.95);
    });
    if (!drawing) throw new Error("IP-Adapter: the picture cannot be drawn");
    return {drawing, width, height};
};
