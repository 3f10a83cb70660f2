"""Stand-ins for scripts that make a picture of parts, or again and again, in the manner of the real ones: the same job
is processed several times, each time with other start pictures."""

import copy

import gradio as gr
from modules import images, processing, scripts
from PIL import Image, ImageDraw


class _Img2Img(scripts.Script):
    name_shown = ""

    def title(self):
        return self.name_shown

    def show(self, is_img2img):
        return is_img2img


class SDUpscale(_Img2Img):
    """Its arguments are the real one's; a scale of 1 stands for the upscaler "None"."""

    name_shown = "SD upscale"

    def ui(self, is_img2img):
        return [gr.HTML(""), gr.Slider(0, 256, 64, label="Tile overlap"), gr.Textbox("Lanczos", label="Upscaler"),
                gr.Slider(1, 4, 2, label="Scale factor")]  # fmt: skip

    def run(self, p, _, overlap, upscaler_index, scale_factor):
        processing.fix_seed(p)
        start = images.flatten(p.init_images[0], "white")
        size = (int(start.width * scale_factor // 8 * 8), int(start.height * scale_factor // 8 * 8))
        grid = images.split_grid(start.resize(size, Image.LANCZOS), p.width, p.height, overlap)
        tiles = [tile for _, _, row in grid.tiles for tile in row]
        together, rounds, seed, pictures = p.batch_size, p.n_iter, p.seed, []
        p.n_iter, p.do_not_save_grid, p.do_not_save_samples = 1, True, True
        cut = [tile[2] for tile in tiles]
        for n in range(rounds):
            p.seed, made = seed + n, []
            for first in range(0, len(cut), together):
                p.batch_size, p.init_images = together, cut[first : first + together]
                done = processing.process_images(p)
                p.seed, made = done.seed + 1, made + done.images
            for tile, picture in zip(tiles, made, strict=False):
                tile[2] = picture
            pictures.append(images.combine_grid(grid))
        return processing.Processed(p, pictures, seed, done.info)


class Outpainting(_Img2Img):
    """Poor man's: to the right, in tiles that reach into what is new; their place is in the enlarged picture."""

    name_shown = "Poor man's outpainting"

    def ui(self, is_img2img):
        return [gr.Slider(8, 256, 64, label="Pixels to expand")]

    def run(self, p, pixels):
        p.inpaint_full_res, p.inpainting_fill, p.n_iter, p.batch_size = False, 1, 1, 1
        start = p.init_images[0]
        canvas, mask = (Image.new(mode, (start.width + pixels, start.height), fill)
                        for mode, fill in (("RGB", "grey"), ("L", 255)))  # fmt: skip
        canvas.paste(start)
        mask.paste(0, (0, 0, *start.size))
        grid, masks = (images.split_grid(one, p.width, p.height, pixels) for one in (canvas, mask))
        for (_, _, row), (_, _, mask_row) in zip(grid.tiles, masks.tiles, strict=True):
            for tile, mask_tile in zip(row, mask_row, strict=True):
                if tile[0] + tile[1] > start.width:
                    p.init_images, p.image_mask, p.latent_mask = [tile[2]], mask_tile[2], None
                    done = processing.process_images(p)
                    tile[2] = done.images[0]
        return processing.Processed(p, [images.combine_grid(grid)], p.seed, done.info)


class OutpaintingMk2(_Img2Img):
    """To the right, in a part that it cuts out itself."""

    name_shown = "Outpainting mk2"

    def run(self, p):
        start = p.init_images[0]
        canvas = Image.new("RGB", (start.width + 32, start.height), "grey")
        canvas.paste(start)
        part = (canvas.width - p.width, 0, canvas.width, p.height)
        p.init_images = [canvas.crop(part)]
        done = processing.process_images(p)
        canvas.paste(done.images[0], part[:2])
        return processing.Processed(p, [canvas], p.seed, done.info)


class UltimateSDUpscale(_Img2Img):
    """The enlarged picture is inpainted where a mask is white, "only masked", again and again."""

    name_shown = "Ultimate SD upscale"

    def run(self, p):
        processing.fix_seed(p)
        picture = p.init_images[0].convert("RGB").resize((2 * p.width, 2 * p.height), Image.LANCZOS)
        p.inpaint_full_res, p.inpaint_full_res_padding, p.inpainting_fill, p.mask_blur = True, 0, 1, 0
        for y in (0, p.height):
            for x in (0, p.width):
                mask = Image.new("L", picture.size)
                ImageDraw.Draw(mask).rectangle((x, y, x + p.width - 1, y + p.height - 1), fill=255)
                p.init_images, p.image_mask = [picture], mask
                done = processing.process_images(p)
                picture = done.images[0]
        return processing.Processed(p, [picture], p.seed, done.info)


class Loopback(_Img2Img):
    """What was made is the next start picture."""

    name_shown = "Loopback"

    def run(self, p):
        for _ in range(2):
            done = processing.process_images(p)
            p.init_images = [done.images[0]]
        return done


class Ours(Loopback):
    """A script that nobody knows, and whose start pictures are not the given ones."""

    name_shown = "Mirror"

    def run(self, p):
        p.init_images = [picture.transpose(Image.FLIP_LEFT_RIGHT) for picture in p.init_images]
        return processing.process_images(p)


class Prompts(_Img2Img):
    """Prompts from file: a job for each line, with a copy of the object, which nobody closes."""

    name_shown = "Prompts from file or textbox"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        return [gr.Textbox("", label="List of prompt inputs")]

    def run(self, p, lines):
        done = []
        for line in lines.splitlines():
            p2 = copy.copy(p)
            p2.prompt = line
            done.append(processing.process_images(p2))
        pictures, texts, prompts = ([one for made in done for one in getattr(made, name)]
                                    for name in ("images", "infotexts", "all_prompts"))  # fmt: skip
        result = copy.copy(done[-1])
        result.images, result.infotexts, result.all_prompts = pictures, texts, prompts
        return result


class Twice(_Img2Img):
    """A script that nobody knows, and that leaves the start pictures alone."""

    name_shown = "Twice"

    def show(self, is_img2img):
        return True

    def run(self, p):
        processing.process_images(p)
        return processing.process_images(p)
