"""Classifier-free guidance: which rows the UNet is called with, and how its answers are combined.

Rows are ordered: all parts of all prompts first, then one unconditional row for each picture. An edit model
(instruct-pix2pix) has a third group: neither prompt nor picture.
"""

import torch

from modules import prompt_parser, script_callbacks, scripts, sd_samplers_common, shared
from modules.shared import opts, state


def _each(cond, change):
    """``change`` applied to a conditioning's tensors: SDXL's is a dict of several."""
    if isinstance(cond, dict):
        return prompt_parser.DictWithShape({key: change(value, key) for key, value in cond.items()})
    return change(cond, "crossattn")


def _rows(cond):
    return cond.shape[0]


def catenate_conds(conds):
    return _each(conds[0], lambda _, key: torch.cat([c[key] if isinstance(c, dict) else c for c in conds]))


def subscript_cond(cond, a, b):
    return _each(cond, lambda value, _: value[a:b])


def pad_cond(tensor, repeats, empty):
    """Append the conditioning of an empty prompt (1, T, D), ``repeats`` times."""

    def longer(value, key):
        return torch.cat([value, empty.repeat(len(value), repeats, 1)], dim=1) if key == "crossattn" else value

    return _each(tensor, longer)


class CFGDenoiser(torch.nn.Module):
    """What samplers call: the guided answer for x at a noise level or timestep."""

    def __init__(self, sampler):
        super().__init__()
        self.sampler = sampler
        self.model_wrap = self.p = None
        self.mask = self.nmask = self.init_latent = None
        self.step = 0
        self.steps = self.total_steps = self.image_cfg_scale = None
        self.mask_before_denoising = False  # or after it: where inpainting puts the start picture back
        self.infotext = {}

    def _wrap(self, model):
        """The model as a function of what the sampler thinks in."""
        raise NotImplementedError

    @property
    def inner_model(self):
        if self.model_wrap is None:
            self.model_wrap = self._wrap(shared.sd_model)
        return self.model_wrap

    def _start(self, p, steps, total_steps):
        """Before a pass: ``total_steps`` calls are to be expected for its ``steps``."""
        self.p, self.step, self.steps, self.total_steps = p, 0, steps, total_steps
        self.infotext = {}
        for name in ("mask", "nmask", "image_cfg_scale"):
            setattr(self, name, getattr(p, name, None))

    def update_inner_model(self):
        """The checkpoint has changed in the middle of a pass."""
        self.model_wrap = None
        self.sampler.sampler_extra_args.update(zip(("cond", "uncond"), self.p.get_conds(), strict=True))

    def get_pred_x0(self, x_in, x_out, sigma):
        """The picture that an answer of the model means."""
        return x_out

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        n_cond = len(x_out) - _rows(uncond)
        prompts, nothing = x_out[:n_cond], x_out[n_cond:]
        towards = [sum(weight * (prompts[row] - base) for row, weight in parts)
                   for parts, base in zip(conds_list, nothing, strict=True)]  # fmt: skip
        return nothing + cond_scale * torch.stack(towards)

    def combine_denoised_for_edit_model(self, x_out, cond_scale):
        """Brooks et al. 2023, equation 3: one scale for the prompt, one for the picture."""
        full, picture, nothing = x_out.tensor_split(3)
        return torch.lerp(nothing, picture, self.image_cfg_scale) + cond_scale * (full - picture)

    def pad_cond_uncond(self, cond, uncond):
        """Make both sides equally long, with empty prompts."""
        empty = shared.sd_model.cond_stage_model_empty_prompt
        longest = max(cond.shape[1], uncond.shape[1])
        self.infotext["Pad conds"] = True
        sides = [pad_cond(side, (longest - side.shape[1]) // empty.shape[1], empty) for side in (cond, uncond)]
        return sides[0], sides[1]

    def pad_cond_uncond_v0(self, cond, uncond):
        """Make the unconditional side as long as the other one: its last vector is repeated, or it is cut."""
        self.infotext["Pad conds v0"] = True
        places = torch.arange(cond.shape[1], device=shared.device).clamp(max=uncond.shape[1] - 1)
        return cond, _each(uncond, lambda value, key: value[:, places] if key == "crossattn" else value)

    def _even(self, cond, uncond):
        if cond.shape[1] != uncond.shape[1] and opts.pad_cond_uncond_v0:
            return self.pad_cond_uncond_v0(cond, uncond)
        if cond.shape[1] != uncond.shape[1] and opts.pad_cond_uncond:
            return self.pad_cond_uncond(cond, uncond)
        return cond, uncond

    def _blend(self, latent, sigma):
        """Put what is not to be repainted back; scripts may do it their way."""
        if self.mask is None:
            return latent
        blended = latent * self.nmask + self.init_latent * self.mask
        arguments = scripts.MaskBlendArgs(latent, self.nmask, self.init_latent, self.mask, blended, self, sigma)
        if self.p.scripts is not None:
            self.p.scripts.on_mask_blend(self.p, arguments)
        return arguments.blended_latent

    def _goes_without_uncond(self, sigma, threshold):
        """Two settings that leave the unconditional rows out: in early steps, or below a noise level."""
        if opts.skip_early_cond and self.step <= opts.skip_early_cond * self.total_steps:
            self.p.extra_generation_params["Skip Early CFG"] = opts.skip_early_cond
            return True
        if threshold > sigma[0] and (opts.s_min_uncond_all or self.step % 2 == 1):
            told = {"NGMS": threshold, "NGMS all steps": opts.s_min_uncond_all or None}
            self.p.extra_generation_params.update(told)
            return True
        return False

    def _calls(self, cond, others, pictures):
        """How rows are spread over calls of the UNet: yields the text of each call, in the order of the rows.

        Text of one length fits into one call. Otherwise the unconditional rows come last, on their own. Without
        batch_cond_uncond no call has more rows than there are pictures.
        """
        together = all(other.shape[1] == cond.shape[1] for other in others)
        text = catenate_conds([cond, *others]) if together else cond
        most = pictures
        if opts.batch_cond_uncond:
            most = _rows(text) if together else 2 * pictures
        for a in range(0, _rows(text), most):
            yield subscript_cond(text, a, a + most)
        if not together:
            yield from others

    def _ask(self, x, sigma, image_cond, cond, others, pictures):
        """The UNet's answers for all rows."""
        answers, a = [], 0
        for text in self._calls(cond, others, pictures):
            rows = slice(a, a + _rows(text))
            told = text if isinstance(text, dict) else {"c_crossattn": [text]}
            told = {**told, "c_concat": [image_cond[rows]]}
            answers.append(self.inner_model(x[rows], sigma[rows], cond=told))
            a = rows.stop
        return torch.cat(answers)

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if sd_samplers_common.apply_refiner(self, sigma):
            cond, uncond = (self.sampler.sampler_extra_args[side] for side in ("cond", "uncond"))
        edits = shared.sd_model.cond_stage_key == "edit" and self.image_cfg_scale not in (None, 1.0)
        conds_list, cond = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        pictures = len(conds_list)
        if edits and _rows(cond) != pictures:
            raise ValueError("an instruct-pix2pix model understands no AND")
        if self.mask_before_denoising:
            x = self._blend(x, sigma)

        def spread(for_prompts, *for_others):
            picture_of_row = [i for i, parts in enumerate(conds_list) for _ in parts]
            return torch.cat([for_prompts[picture_of_row], *for_others])

        blank = [torch.zeros_like(self.init_latent)] if edits else []
        groups = 2 if edits else 1
        params = script_callbacks.CFGDenoiserParams(
            spread(x, *[x] * groups), spread(image_cond, image_cond, *blank), spread(sigma, *[sigma] * groups),
            state.sampling_step, state.sampling_steps, cond, uncond, self,
        )  # fmt: skip
        script_callbacks.cfg_denoiser_callback(params)
        cond, uncond = self._even(params.text_cond, params.text_uncond)
        without = not edits and self._goes_without_uncond(sigma, s_min_uncond)
        asked = len(params.x) - pictures if without else len(params.x)  # cut only after the callback has seen all
        answer = self._ask(params.x[:asked], params.sigma[:asked], params.image_cond, cond,
                           [] if without else [uncond] * groups, pictures)  # fmt: skip
        first_rows = [parts[0][0] for parts in conds_list]
        if without:
            answer = torch.cat([answer, answer[first_rows]])

        progress = (state.sampling_step, state.sampling_steps)
        script_callbacks.cfg_denoised_callback(
            script_callbacks.CFGDenoisedParams(answer, *progress, self.inner_model)
        )  # fmt: skip
        if edits:
            guided = self.combine_denoised_for_edit_model(answer, cond_scale)
        else:
            guided = self.combine_denoised(answer, conds_list, uncond, 1.0 if without else cond_scale)
        if not self.mask_before_denoising:
            guided = self._blend(guided, sigma)
        seen = self.get_pred_x0(params.x[first_rows], answer[first_rows], sigma)
        self.sampler.last_latent = state.current_latent = seen
        after = script_callbacks.AfterCFGCallbackParams(guided, *progress)
        script_callbacks.cfg_after_cfg_callback(after)
        self.step += 1
        return after.x
