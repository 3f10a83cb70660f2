"""Pictures: reading, resizing, saving."""

import math
from collections import namedtuple
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


# ``tiles`` are rows [top, height, [[left, width, picture], …]]; scripts put other pictures in the places of these.
Grid = namedtuple("Grid", "tiles tile_w tile_h image_w image_h overlap")


def split_grid(image, tile_w=512, tile_h=512, overlap=64):
    """A picture in tiles of one size, evenly spread, that overlap by so much or more. A tile that is larger than the
    picture begins before it."""
    lefts, tops = _starts(image.width, tile_w, overlap), _starts(image.height, tile_h, overlap)
    rows = [[y, tile_h, [[x, tile_w, image.crop((x, y, x + tile_w, y + tile_h))] for x in lefts]] for y in tops]
    return Grid(rows, tile_w, tile_h, image.width, image.height, overlap)


def _starts(length, tile, overlap):
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return [min(int(i * (length - tile) / max(1, count - 1)), length - tile) for i in range(count)]


def combine_grid(grid):
    """The tiles as one picture, each fading in over its overlap with those to its left and above it."""
    whole = Image.new("RGB", (grid.image_w, grid.image_h))
    for top, height, row in grid.tiles:
        line = Image.new("RGB", (grid.image_w, height))
        for left, _, tile in row:
            line.paste(tile, (left, 0), _fade(tile.size, grid.overlap if left else 0, 0))
        whole.paste(line, (0, top), _fade(line.size, 0, grid.overlap if top else 0))
    return whole


def _fade(size, width, height):
    """A mask that is black at its left or upper edge and white from ``width`` or ``height`` on."""
    mask = Image.new("L", size, 255)
    for i in range(width):
        mask.paste(255 * i // width, (i, 0, i + 1, size[1]))
    for i in range(height):
        mask.paste(255 * i // height, (0, i, size[0], i + 1))
    return mask


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
