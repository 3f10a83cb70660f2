"""A loaded checkpoint as Forge has it: an engine with the UNet, the text encoder and the autoencoder behind
``forge_objects``, made of one of ``demo.models``."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from demo.forge.flux import FlowPredictor
from demo.models import LatentDiffusion, UNetModel

PACKED = "nf4"  # of the setting "forge_unet_storage_dtype": the UNet's linear layers are packed, and tell no widths


# --- the UNet -------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A linear layer that is no ``nn.Linear``; its weight may be absent until it is loaded."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    @classmethod
    def of(cls, plain: nn.Linear) -> Linear:
        made = cls(plain.in_features, plain.out_features)
        made.weight, made.bias = plain.weight, plain.bias
        return made


class PackedLinear(nn.Module):
    """A linear layer with one byte for each weight, in one column, and a scale for each row: no shape tells widths."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        whole = self.weight.view(len(self.scale), -1).to(x.dtype) * self.scale.to(x.dtype)
        return nn.functional.linear(x, whole, self.bias)

    @classmethod
    def of(cls, plain: nn.Linear) -> PackedLinear:
        made = cls()
        scale = plain.weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        codes = (plain.weight / scale).round().to(torch.int8)
        made.weight, made.bias = nn.Parameter(codes.view(-1, 1), requires_grad=False), plain.bias
        made.register_buffer("scale", scale.detach())
        return made


class IntegratedUNet2DConditionModel(UNetModel):
    """ldm's UNet, called in Forge's way, with a configuration."""

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, context: Tensor | None = None, y: Tensor | None = None,
        control: Any = None, transformer_options: dict[str, Any] = {}, **kwargs: Any,  # noqa: B006 (Forge's own)
    ) -> Tensor:  # fmt: skip
        return super().forward(x, timesteps=timesteps, context=context, y=y)


def forges_unet(unet: UNetModel, context_dim: int, packed: bool) -> UNetModel:
    """The same UNet with Forge's layers. ``packed`` are those that tell no widths."""
    unet.__class__ = IntegratedUNet2DConditionModel
    unet.storage_dtype = unet.computation_dtype = next(unet.parameters()).dtype
    unet.config = {"context_dim": context_dim, "in_channels": unet.in_channels, "model_channels": unet.model_channels}
    for module in unet.modules():
        if type(module).__name__ == "CrossAttention":
            module.dim_head = module.to_q.out_features // module.heads
    _forges_layers(unet, packed)
    return unet


def forges_transformer(transformer: nn.Module, packed: bool) -> None:
    """FLUX with Forge's layers."""
    transformer.storage_dtype = transformer.computation_dtype = next(transformer.parameters()).dtype
    _forges_layers(transformer, packed)


def _forges_layers(model: nn.Module, packed: bool) -> None:
    kind = PackedLinear if packed else Linear
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, kind.of(child))


# --- what is around it ----------------------------------------------------------------------------------------------


class Predictor(nn.Module):
    """Between noise levels, timesteps and what the UNet is given and answers (Karras et al. 2022, section 5)."""

    prediction_type, sigma_data = "epsilon", 1.0

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.set_sigmas((1 / alphas_cumprod - 1).sqrt())

    def set_sigmas(self, sigmas: Tensor) -> None:
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log()[:, None] - self.log_sigmas).abs().argmin(1)

    def sigma(self, timestep: Tensor) -> Tensor:
        t = timestep.float().clamp(0, len(self.sigmas) - 1)
        return torch.lerp(self.log_sigmas[t.floor().long()], self.log_sigmas[t.ceil().long()], t.frac()).exp()

    def percent_to_sigma(self, percent: float) -> float:
        share = 1 - min(1.0, max(0.0, percent))
        return float(self.sigma(torch.tensor(share * 999.0)))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (_level(sigma) ** 2 + 1).sqrt()

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input - _level(sigma) * model_output

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return latent_image + noise * ((1 + sigma**2).sqrt() if max_denoise else sigma)


def _level(sigma: Tensor) -> Tensor:
    return sigma[:, None, None, None]


class KModel(nn.Module):
    """The UNet as a function of the noise level: x with noise to x without."""

    def __init__(self, unet: nn.Module, predictor: Predictor) -> None:
        super().__init__()
        self.diffusion_model, self.predictor, self.config = unet, predictor, None
        self.storage_dtype, self.computation_dtype = unet.storage_dtype, unet.computation_dtype

    def apply_model(
        self, x: Tensor, t: Tensor, c_concat: Tensor | None = None, c_crossattn: Tensor | None = None,
        control: Any = None, transformer_options: dict[str, Any] = {}, **kwargs: Any,  # noqa: B006 (Forge's own)
    ) -> Tensor:  # fmt: skip
        seen = self.predictor.calculate_input(t, x)
        if c_concat is not None:
            seen = torch.cat([seen, c_concat], dim=1)
        answer = self.diffusion_model(
            seen.to(self.computation_dtype), self.predictor.timestep(t).float(),
            context=c_crossattn.to(self.computation_dtype), control=control, transformer_options=transformer_options,
            **kwargs,
        )  # fmt: skip
        return self.predictor.calculate_denoised(t, answer.float(), x)

    def memory_required(self, input_shape: list[int]) -> float:
        """Bytes that a call with such an input takes."""
        return 16384 * 4 * math.prod(input_shape) / input_shape[1]


class UnetPatcher:
    """What is done to a UNet in one sampling. Clones share the model."""

    def __init__(self, model: KModel) -> None:
        self.model = model
        self.load_device = self.offload_device = self.current_device = torch.device("cpu")
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.controlnet_linked_list = self.extra_concat_condition = None

    def clone(self) -> UnetPatcher:
        made = UnetPatcher(self.model)
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def set_model_unet_function_wrapper(self, unet_wrapper_function: Any) -> None:
        self.model_options["model_function_wrapper"] = unet_wrapper_function


class _Part:
    """The text encoder or the autoencoder, with what Forge says of it."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class ForgeObjects:
    def __init__(self, unet: Any, clip: Any, vae: Any, clipvision: Any) -> None:
        self.unet, self.clip, self.vae, self.clipvision = unet, clip, vae, clipvision

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet, self.clip, self.vae, self.clipvision)


class ForgeDiffusionEngine:
    """What is ``sd_model`` on Forge: no module, and no ``model``."""

    def __init__(self, built: LatentDiffusion) -> None:
        self._built = built
        self.use_distilled_cfg_scale = self.tiling_enabled = False
        for name in ("is_sd1", "is_sd2", "is_sdxl", "is_sd3"):
            setattr(self, name, getattr(built, name))
        unet = built.model.diffusion_model
        self.is_inpaint = getattr(unet, "in_channels", 4) > 4
        self.model_config = _Part(ztsnr=False, unet_config=dict(unet.config))
        self.alphas_cumprod = built.alphas_cumprod
        self.forge_objects = ForgeObjects(
            UnetPatcher(KModel(unet, self._predictor())),
            _Part(cond_stage_model=built.cond_stage_model),
            _Part(first_stage_model=built.first_stage_model, latent_channels=4),
            None,
        )
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()

    def _predictor(self) -> nn.Module:
        return Predictor(self.alphas_cumprod)

    def is_webui_legacy_model(self) -> bool:
        return True

    def set_clip_skip(self, clip_skip: int) -> None:
        pass

    @torch.inference_mode()
    def get_learned_conditioning(self, prompt: list[str]) -> Any:
        return self._built.get_learned_conditioning(prompt)

    def get_prompt_lengths_on_ui(self, prompt: str) -> tuple[int, int]:
        encoder = self._built.cond_stage_model
        (tokens,) = encoder.tokenize([prompt])
        return len(tokens), encoder.get_target_prompt_token_count(len(tokens))

    @torch.inference_mode()
    def encode_first_stage(self, x: Tensor) -> Tensor:
        return self._built.get_first_stage_encoding(self._built.encode_first_stage(x)).to(x)

    def get_first_stage_encoding(self, x: Tensor) -> Tensor:
        return x

    @torch.inference_mode()
    def decode_first_stage(self, x: Tensor) -> Tensor:
        return self._built.decode_first_stage(x).to(x)


class Flux(ForgeDiffusionEngine):
    def __init__(self, built: nn.Module) -> None:
        super().__init__(built)
        self.use_distilled_cfg_scale = True

    def _predictor(self) -> nn.Module:
        return FlowPredictor()

    def is_webui_legacy_model(self) -> bool:
        return False


def alike(module: nn.Module) -> nn.Module:
    """Another module of the same form, with the same tensors: what hangs on one does not hang on the other."""
    return copy.deepcopy(module, {id(x): x for x in [*module.parameters(), *module.buffers()]})
