"""Stand-ins for other extensions: each does to the UNet, the sampler or the job what the real one does.

Copied as ``scripts/neighbours.py`` into an extension's folder they are loaded by the host. ``settings`` names those
that act, with their parameters. Nothing of the real ones' code is in here.
"""

import contextlib
import copy
import json
import sys
import types

import gradio as gr
import torch
from ldm.modules.diffusionmodules import openaimodel
from modules import processing, script_callbacks, scripts, sd_samplers, shared
from PIL import Image
from torch import nn

settings = {}  # name -> parameters, of those that act


@contextlib.contextmanager
def acting(**chosen):
    settings.update(chosen)
    try:
        yield
    finally:
        for name in chosen:
            del settings[name]


def unet():
    model = shared.sd_model
    return (model.forge_objects.unet.model if hasattr(model, "forge_objects") else model.model).diffusion_model


def attentions(name):
    return [module for path, module in unet().named_modules() if path.endswith(f".{name}")]


def attend(module, q, context):
    k, v = module.to_k(context), module.to_v(context)
    q, k, v = (t.unflatten(-1, (module.heads, -1)).transpose(1, 2) for t in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


# What changes the UNet from ``process`` to ``postprocess``: each returns what undoes it


def lora(strength=1.0):
    """The built-in Lora: ``Linear.forward`` itself is another, and adds what the layer's network says."""
    original, networks = nn.Linear.forward, lora_deltas(strength)

    def forward(self, x):
        delta = networks.get(self)
        return original(self, x) if delta is None else original(self, x) + nn.functional.linear(x, delta)

    nn.Linear.forward = forward
    return lambda: setattr(nn.Linear, "forward", original)


def lora_deltas(strength):
    generator, found = torch.Generator().manual_seed(9), {}
    for module in attentions("attn2"):
        for linear in (module.to_q, module.to_k, module.to_v, module.to_out[0]):
            up, down = (torch.randn(n, 4, generator=generator) / n**0.5 for n in linear.weight.shape)
            found[linear] = strength * up @ down.T
    return found


def merged_lora(strength=1.0):
    """The same network added to the weights, which is what a Lora means."""
    before = {linear: linear.weight.data for linear in lora_deltas(strength)}
    for linear, delta in lora_deltas(strength).items():
        linear.weight.data = linear.weight.data + delta

    def undo():
        for linear, weight in before.items():
            linear.weight.data = weight

    return undo


def hypertile(parts=2):
    """Self-attention in tiles: the rows become ``parts`` times as many. Replaces ``attn1.forward``."""
    changed = attentions("attn1")

    def wrapped(original):
        def forward(x, *args, **kwargs):
            n = parts if x.shape[1] % parts == 0 else 1
            return original(x.unflatten(1, (n, -1)).flatten(0, 1), *args, **kwargs).unflatten(0, (-1, n)).flatten(1, 2)

        return forward

    for module in changed:
        module.forward = wrapped(module.forward)
    return lambda: [module.__dict__.pop("forward") for module in changed]


def token_merging(cross=False):
    """tomesd: every transformer block gets another class, which merges places before attention, and copies after."""
    blocks = [module for module in unet().modules() if type(module).__name__ == "BasicTransformerBlock"]

    def as_it_is(x):
        return x

    def merge(x):
        return x.unflatten(1, (-1, 2)).mean(2)

    def split(x):
        return x.repeat_interleave(2, dim=1)

    def _forward(self, x, context=None):
        there, back = (merge, split) if x.shape[1] % 2 == 0 else (as_it_is, as_it_is)
        x = back(self.attn1(there(self.norm1(x)))) + x
        there, back = (there, back) if cross else (as_it_is, as_it_is)
        x = back(self.attn2(there(self.norm2(x)), context=context)) + x
        return self.ff(self.norm3(x)) + x

    for block in blocks:
        block.__class__ = type("ToMeBlock", (type(block),), {"_forward": _forward, "_parent": type(block)})

    def undo():
        for block in blocks:
            block.__class__ = block._parent

    return undo


def freeu(backbone=1.4, skip=0.7):
    """The concatenation of a decoder block's two inputs weighs them; it is found through the UNet module's ``th``."""
    original = openaimodel.th

    class Torch:
        def __getattr__(self, name):
            return getattr(original, name)

        def cat(self, tensors, *args, **kwargs):
            if len(tensors) == 2 and kwargs == {"dim": 1}:
                h, from_encoder = tensors
                half = h.shape[1] // 2
                tensors = [torch.cat([h[:, :half] * backbone, h[:, half:]], 1), from_encoder * skip]
            return original.cat(tensors, *args, **kwargs)

    openaimodel.th = Torch()
    return lambda: setattr(openaimodel, "th", original)


def regional(regions=2, negative=2):
    """Regional Prompter's attention mode: the text is that of all regions, 77 tokens each, and every region's share of
    the result comes from an attention, projections included, to its own part.

    ``negative``: the number of parts of the negative prompt; with 1 of the same length, a call's two halves are worked
    on one after the other.
    """
    changed = attentions("attn2")

    def parted(module, x, context, parts):
        outs = [module.to_out(attend(module, module.to_q(x), part)) for part in context.chunk(parts, dim=1)]
        side = round(x.shape[1] ** 0.5)
        column = torch.arange(x.shape[1]) % side * parts // side
        return sum(out * (column == i)[None, :, None] for i, out in enumerate(outs))

    def forward(self, x, context=None, mask=None, **_kwargs):
        parts = context.shape[1] // 77
        if parts != regions or negative == regions:
            return parted(self, x, context, parts)
        if len(context) == 1 or torch.equal(context[0], context[-1]):
            return parted(self, x, context, regions)
        halves = zip(x.chunk(2), context.chunk(2), (regions, 1), strict=True)
        return torch.cat([parted(self, *half) for half in halves])

    for module in changed:
        module.forward = types.MethodType(forward, module)
    return lambda: [module.__dict__.pop("forward") for module in changed]


UNET = {f.__name__: f for f in (lora, merged_lora, hypertile, token_merging, freeu, regional)}


class UNetChanges(scripts.Script):
    def __init__(self):
        self.undo = []

    def title(self):
        return "What changes the UNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        self.postprocess(p, None)
        self.undo = [UNET[name](**settings[name]) for name in settings if name in UNET]

    def postprocess(self, p, processed, *args):
        while self.undo:
            self.undo.pop()()


# Regional Prompter's latent mode


class RegionalLatent(scripts.Script):
    """Regions are AND prompts, called one by one. The rows of a batch are put into another order before the UNet and
    back after it, where every region's share comes from its own."""

    def title(self):
        return "Regional Prompter"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        self.postprocess(p, None)
        if "latent" in settings:
            self.batch, self.together = p.batch_size, shared.opts.batch_cond_uncond
            shared.opts.data["batch_cond_uncond"] = False
            script_callbacks.on_cfg_denoiser(self.reorder)
            script_callbacks.on_cfg_denoised(self.mix)

    def reorder(self, params):
        areas = len(params.x) // self.batch - 1
        for tensor in (params.x, params.image_cond, params.sigma, params.text_cond):
            rows = tensor[: areas * self.batch]
            rows.copy_(rows.clone().unflatten(0, (self.batch, areas)).transpose(0, 1).flatten(0, 1))

    def mix(self, params):
        areas = len(params.x) // self.batch - 1
        width = params.x.shape[-1]
        column = torch.arange(width) * areas // width
        made, nothing = params.x[: areas * self.batch].clone(), params.x[areas * self.batch :]
        for b in range(self.batch):
            for a in range(areas):
                params.x[b * areas + a] = torch.where(column == a, made[a * self.batch + b], nothing[b])

    def postprocess(self, p, processed, *args):
        if hasattr(self, "together"):
            shared.opts.data["batch_cond_uncond"] = self.together
            del self.together
            script_callbacks.remove_callbacks_for_function(self.reorder)
            script_callbacks.remove_callbacks_for_function(self.mix)


# Tiled Diffusion


class Tiled(scripts.Script):
    """Every sampler that is made asks its model tile by tile, ``together`` of them in one call, and then region by
    region, with the region's own texts.

    ``boxes`` are (top, left, height, width) in the latent, ``regions`` (box, prompt, negative prompt). ``below``: not
    the sampler's model is replaced, but the checkpoint's ``apply_model`` below it.
    """

    def title(self):
        return "Tiled Diffusion"

    def ui(self, is_img2img):
        return [gr.Checkbox(False)]

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        self.postprocess(p, None)
        if "tiled" not in settings:
            return
        original = self.original = sd_samplers.create_sampler

        def create(name, model):
            sampler = original(name, model)
            wrap = sampler.model_wrap_cfg
            if settings["tiled"].get("below"):
                model.apply_model = tiles(wrap, model.apply_model)
                self.model = model
            else:
                wrap.inner_model.forward = tiles(wrap, wrap.inner_model.forward)
            return sampler

        sd_samplers.create_sampler = create

    def postprocess(self, p, processed, *args):
        if hasattr(self, "original"):
            sd_samplers.create_sampler = self.original
            del self.original
        if hasattr(self, "model"):
            del self.model.apply_model
            del self.model


def tiles(denoiser, forward):
    chosen = {"boxes": [], "regions": [], "together": 1, **settings["tiled"]}
    texts = [tuple(shared.sd_model.get_learned_conditioning([text]) for text in region[1:])
             for region in chosen["regions"]]  # fmt: skip
    steps = {}  # of every region, how many of a step's rows are done

    def cut(x, box):
        return x if x.shape[2:] == (1, 1) else x[:, :, box[0] : box[0] + box[2], box[1] : box[1] + box[3]]

    def ask(x, sigma, text, concat):
        return forward(x, sigma, cond={"c_crossattn": [text], "c_concat": [concat]})

    def region(i, box, x, sigma, concat):
        """A region's rows: its text for those of the sampler's rows that are conditional, else its negative text."""
        step = (denoiser.step, denoiser.total_steps)
        done = steps.get(i, (step, 0))[1] if steps.get(i, (step, 0))[0] == step else 0
        parts = denoiser.sampler.sampler_extra_args["cond"].batch
        n_cond = sum(map(len, parts))
        if done >= n_cond + len(parts):
            done = 0
        steps[i] = step, done + len(x)
        conds = max(0, min(len(x), n_cond - done))
        sides = [(0, conds, texts[i][0]), (conds, len(x), texts[i][1])]
        sides = [(a, b, text.expand(b - a, -1, -1)) for a, b, text in sides if b > a]
        if len({text.shape[1] for *_, text in sides}) == 1:
            return ask(cut(x, box), sigma, torch.cat([text for *_, text in sides]), cut(concat, box))
        return torch.cat([ask(cut(x[a:b], box), sigma[a:b], text, cut(concat[a:b], box)) for a, b, text in sides])

    def tiled(x, sigma, cond):
        (text,), (concat,) = cond["c_crossattn"], cond["c_concat"]
        concat = concat[: len(x)]
        total, weight, n = torch.zeros_like(x), torch.zeros_like(x[:1, :1]), len(x)
        boxes = chosen["boxes"]
        for k in range(0, len(boxes), chosen["together"]):
            some = boxes[k : k + chosen["together"]]
            x_tiles, concats = (torch.cat([cut(z, box) for box in some]) for z in (x, concat))
            out = ask(x_tiles, sigma.repeat(len(some)), text.repeat(len(some), 1, 1), concats)
            for i, box in enumerate(some):
                cut(total, box).add_(out[i * n : (i + 1) * n])
                cut(weight, box).add_(1)
        for i, (box, *_) in enumerate(chosen["regions"]):
            cut(total, box).add_(region(i, box, x, sigma, concat))
            cut(weight, box).add_(1)
        return total / weight

    return tiled


# AnimateDiff


class Film(scripts.Script):
    """The pictures of a batch are a film's frames: the sampler's model is asked for ``window`` of them at a time, the
    windows overlapping, the last ones going on with the first frames. ``travel``: every frame has a text of its own.
    ``length``: the film's, as the extension is asked for it; the batch has at least as many frames as a window."""

    def title(self):
        return "AnimateDiff"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.State(None)]

    def before_process(self, p, *args):
        """Its settings become an object in the job's arguments, and the batch's size that of the film."""
        length = settings.get("film", {}).get("length")
        if length is not None:
            window, arguments = settings["film"]["window"], list(p.script_args)
            p.batch_size = max(window, length) if length else window
            arguments[self.args_from] = types.SimpleNamespace(enable=True, video_length=length or p.batch_size)
            p.script_args = arguments

    def process(self, p, *args):
        self.postprocess(p, None)
        if "film" in settings:
            self.frames = p.batch_size
            script_callbacks.on_cfg_denoiser(self.begin)

    def begin(self, params):
        window, model = settings["film"]["window"], params.denoiser.inner_model
        if settings["film"].get("travel"):
            factors = torch.linspace(0.8, 1.2, len(params.text_cond))
            params.text_cond = params.text_cond * factors[:, None, None]
        if "forward" in vars(model):
            return
        original, frames = model.forward, self.frames

        def forward(x, sigma, cond):
            out = torch.zeros_like(x)
            for start in range(0, frames, max(1, window - 1)):
                some = [i % frames for i in range(start, start + window)]
                if shared.opts.batch_cond_uncond:
                    some += [frames + i for i in some]
                told = {k: [v[0][some]] if isinstance(v, list) else v[some] for k, v in cond.items()}
                out[some] = original(x[some], sigma[some], cond=told)
            return out

        model.forward = forward

    def postprocess(self, p, processed, *args):
        if hasattr(self, "frames"):
            script_callbacks.remove_callbacks_for_function(self.begin)
            del self.frames


# Dynamic Thresholding


class Thresholding(scripts.Script):
    """The job's sampler becomes one of its own making, whose denoiser combines the two sides in another way."""

    def title(self):
        return "Dynamic Thresholding"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process_batch(self, p, *args, **kwargs):
        if "thresholding" not in settings:
            return
        share, data = settings["thresholding"]["share"], sd_samplers.all_samplers_map[p.sampler_name]

        def constructor(model, config):
            sampler = data.constructor(model, config)

            class Denoiser(type(sampler.model_wrap_cfg)):
                def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
                    mimicked = super().combine_denoised(x_out, conds_list, uncond, 2.0)
                    full = super().combine_denoised(x_out, conds_list, uncond, cond_scale)
                    return torch.lerp(full, full * mimicked.std() / full.std(), share)

            sampler.model_wrap_cfg = Denoiser(sampler)
            return sampler

        self.before, p.sampler_name = p.sampler_name, f"{p.sampler_name}_thresholded"
        sd_samplers.all_samplers_map[p.sampler_name] = data._replace(name=p.sampler_name, constructor=constructor)

    def postprocess_batch(self, p, *args, **kwargs):
        if hasattr(self, "before"):
            del sd_samplers.all_samplers_map[p.sampler_name]
            p.sampler_name = self.before
            del self.before


# ADetailer


class Detailer(scripts.Script):
    """Paints parts of every finished picture again, in jobs inside the job; ``passes`` keeps what went in and came out.
    Other scripts are told that the job rests and goes on, with copies of its object.

    Its arguments: whether it is on, whether it skips img2img, and for each tab an object with what it looks for, a name
    of ``FINDS``, and the checkpoint of its passes. An object with ``"ad_unknown"`` is no tab's, and left out.
    """

    passes = []  # noqa: RUF012
    FINDS = types.MappingProxyType({"one": 1, "two": 2, "nothing": 0})

    def title(self):
        return "ADetailer"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Checkbox(False), gr.Checkbox(False), *(gr.State({}) for _ in range(3))]

    class Tab(dict):
        def __init__(self, **settings):
            if "ad_unknown" in settings:
                raise ValueError(settings)
            super().__init__(settings)

        @property
        def is_on(self):
            return self.get("ad_model", "None") != "None" and self.get("ad_tab_enable", True)

    @classmethod
    def all_tabs(cls, args):
        on = args[0] if isinstance(args[0], bool) else True
        for arg in args:
            if on and isinstance(arg, dict):
                with contextlib.suppress(ValueError):
                    yield cls.Tab(**arg)

    @classmethod
    def tabs(cls, args):
        return [tab for tab in cls.all_tabs(args) if tab.is_on]

    def process(self, p, *args):
        if getattr(p, "_ad_disabled", False):
            return
        if not self.tabs(args):
            p._ad_disabled = True
        elif args[1] is True and getattr(p, "init_images", None) and not hasattr(p, "_ad_skip_img2img"):
            p._ad_skip_img2img = True
            if p.image_mask is not None:
                p._ad_disabled = True
                return
            p._ad_original = p.steps
            p.steps = 1

    def postprocess_image(self, p, pp, *args):
        if getattr(p, "_ad_disabled", False) or not self.tabs(args):
            return
        if getattr(p, "_ad_skip_img2img", False):
            pp.image = p.init_images[0]
        if p.batch_index == 0:
            p.scripts.postprocess(copy.copy(p), processing.Processed(p, [], p.seed, ""))
        for n, tab in enumerate(self.all_tabs(args)):
            if tab.is_on and not shared.state.interrupted:
                self._postprocess_image_inner(p, pp, tab, n=n)
        if p.batch_index == p.batch_size - 1:
            again = copy.copy(p)
            p.scripts.before_process(again)
            p.scripts.process(again)

    def _postprocess_image_inner(self, p, pp, args, *, n=0):
        self.paint(p, pp, args, settings.get("detailer", {}))

    def paint(self, p, pp, tab, chosen):
        inner = self.inner(p, pp.image, tab, chosen)
        for number in range(self.FINDS[tab["ad_model"]]):
            p2 = copy.copy(inner)
            p2.image_mask = Image.new("L", pp.image.size)
            p2.image_mask.paste(255, (8 + 16 * number, 8, 40 + 16 * number, 40))
            torch.manual_seed(p2.seed)  # img2img's start picture is encoded with noise from the global generator
            try:
                made = processing.process_images(p2).images
            finally:
                p2.close()
            if not made:
                break
            self.passes.append((p2.init_images[0], p2.image_mask, p2.seed, made[0]))
            inner.init_images = made[:1]
        pp.image = inner.init_images[0]

    @staticmethod
    def inner(p, image, tab, chosen):
        i = p.iteration * p.batch_size + p.batch_index
        runner = copy.copy(p.scripts)
        if not chosen.get("all_scripts"):
            runner.alwayson_scripts = []
        override = {"sd_model_checkpoint": tab["ad_checkpoint"]} if tab.get("ad_use_checkpoint") else {}
        inner = processing.StableDiffusionProcessingImg2Img(
            init_images=[image], denoising_strength=0.6, mask=None, mask_blur=2, inpainting_fill=1,
            inpaint_full_res=True, inpaint_full_res_padding=8, prompt=p.all_prompts[i],
            negative_prompt=p.all_negative_prompts[i], seed=p.all_seeds[i], subseed=p.all_subseeds[i], steps=3,
            width=chosen.get("size", 128), height=chosen.get("size", 128), sampler_name="Euler", sd_model=p.sd_model,
            cfg_scale=p.cfg_scale, do_not_save_samples=True, do_not_save_grid=True,
            extra_generation_params=dict(p.extra_generation_params), override_settings=override,
        )  # fmt: skip
        inner.cached_c, inner.cached_uc = [None, None], [None, None]
        inner.is_api = True  # the page's own controls are left out
        inner.scripts, inner.script_args = runner, type(p.script_args)(copy.copy(arg) for arg in p.script_args)
        inner._ad_disabled = inner._ad_inner = True
        return inner


# sd-webui-distributed


class Distributed(scripts.Script):
    """Sends the job, as JSON, to other machines: all scripts' arguments, and all that is on its object."""

    sent, failed = [], []
    world = types.SimpleNamespace(
        enabled=False, enabled_i2i=False,
        get_workers=lambda: [types.SimpleNamespace(master=True), types.SimpleNamespace(master=False)],
    )  # fmt: skip

    def title(self):
        return "Distribute"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def before_process(self, p, *args):
        if not self.world.enabled:
            return
        packed = {s.title(): {"args": list(p.script_args[s.args_from : s.args_to])} for s in p.scripts.alwayson_scripts}
        payload = {name: value for name, value in vars(p).items() if name not in ("scripts_value", "script_args_value")}
        payload = copy.deepcopy({**payload, "scripts": None, "alwayson_scripts": packed})
        try:
            self.sent.append(json.dumps(payload))
        except (TypeError, ValueError) as error:
            self.failed.append(error)
            raise


sys.modules["neighbours_stand_in"] = types.SimpleNamespace(**globals())  # for the tests
