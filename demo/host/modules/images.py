"""Pictures: reading, resizing, saving."""

import math
from pathlib import Path

from PIL import Image, ImageOps

from modules import script_callbacks
from modules.util import png_info


def read(fp, **kwargs):
    return fix_image(Image.open(fp, **kwargs))


def fix_image(image):
    """Upright, and with an alpha channel where the file has transparent colours."""
    if image is None:
        return None
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    return ImageOps.exif_transpose(image)


def flatten(img, bgcolor):
    if "A" not in img.getbands():
        return img.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", img.size, bgcolor), img.convert("RGBA")).convert("RGB")


def image_grid(imgs, batch_size=1, rows=None):
    rows = rows or max(1, round(math.sqrt(len(imgs))))
    params = script_callbacks.ImageGridLoopParams(imgs, -(-len(imgs) // rows), rows)
    script_callbacks.image_grid_callback(params)
    width, height = params.imgs[0].size
    grid = Image.new("RGB", (params.cols * width, params.rows * height))
    for i, picture in enumerate(params.imgs):
        row, column = divmod(i, params.cols)
        grid.paste(picture, (column * width, row * height))
    return grid


def resize_image(resize_mode, im, width, height, upscaler_name=None):
    """0: stretch; 1: cover and crop; otherwise: fit and fill with the edges' colours."""
    size = (int(width), int(height))
    if resize_mode == 0:
        return im.resize(size, Image.LANCZOS)
    if resize_mode == 1:
        return ImageOps.fit(im, size, Image.LANCZOS)
    fitted = ImageOps.contain(im, size, Image.LANCZOS)
    result = fitted.resize(size)
    result.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
    return result


def save_image(
    image,
    path,
    basename,
    seed=None,
    prompt=None,
    extension="png",
    info=None,
    short_filename=False,
    no_prompt=False,
    grid=False,
    pnginfo_section_name="parameters",
    p=None,
    existing_info=None,
    forced_filename=None,
    suffix="",
    save_to_dirs=None,
):
    """Save as PNG, under the next number. Returns the path, and nothing for the text file that is not written."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    stem = forced_filename or f"{basename}{len(list(folder.iterdir())):05}-{seed}{suffix}"
    texts = {**(existing_info or {}), pnginfo_section_name: info}
    params = script_callbacks.ImageSaveParams(image, p, str(folder / f"{stem}.png"), texts)
    script_callbacks.before_image_saved_callback(params)
    params.image.save(params.filename, pnginfo=png_info(params.pnginfo))
    image.already_saved_as = params.filename
    script_callbacks.image_saved_callback(params)
    return params.filename, None


def read_info_from_image(image):
    """The generation parameters, and the other texts in the file."""
    texts = {key: value for key, value in image.info.items() if isinstance(value, str)}
    return texts.pop("parameters", None), texts
