"""InstantID's network of keypoints: equal to diffusers', acting where and when it should, and gone without a trace."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from demo.models import build_unet
from lib_ipadapter.attend import residuals
from lib_ipadapter.attend.control import ControlNetwork
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.keypoints import Keypoints
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.outcome import Outcome
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.attend.regions import Part, Region
from lib_ipadapter.attend.rows import Row, Rows, layout
from lib_ipadapter.errors import DeviceMemoryError, MismatchError
from tests.helpers.keypoints import (
    SDXL,
    diffusers_control,
    diffusers_twin,
    network,
    told,
    vector,
    write_keypoints,
    xl_unet,
)
from tests.helpers.prompts import make_prompt
from tests.helpers.tensors import close, draw
from tests.helpers.unets import sd_unet, sdxl_unet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> ControlNetwork:
    return network(write_keypoints(tmp_path_factory.mktemp("keypoints") / "x.safetensors"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> ControlNetwork:
    return network(write_keypoints(tmp_path_factory.mktemp("keypoints") / "deep.safetensors", SDXL))


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return xl_unet()


def drawing(seed: int):
    """Some picture in the place of drawn points: the same share of a picture at every size."""

    def draw_it(picture, box, size):
        left, top, width, height = box
        whole = draw(3, 12, 12, seed=seed).sigmoid()
        down = ((top + (torch.arange(size[0]) + 0.5) * height / size[0]) * 12 / picture[0]).long().clamp(0, 11)
        across = ((left + (torch.arange(size[1]) + 0.5) * width / size[1]) * 12 / picture[1]).long().clamp(0, 11)
        return whole[:, down][:, :, across]

    return draw_it


def points(control: ControlNetwork, seed: int = 30, pictures: int = 1, **settings) -> Keypoints:
    tokens = draw(2 * pictures, 16, 2048, seed=seed).chunk(2)
    drawings = tuple(drawing(seed + i) for i in range(pictures))
    return Keypoints(control, drawings, *tokens, **{"strength": 0.8, **settings})


def prompt(unet: nn.Module, keypoints: Keypoints | None, weight: float = 0.0, **settings) -> ImagePrompt:
    return make_prompt(unet, 5, weight, keypoints=keypoints, **settings)


class Step:
    """What a step of SDXL's UNet is given."""

    def __init__(self, size: tuple[int, int] = (8, 8), pictures: int = 1, seed: int = 50) -> None:
        self.rows = layout([1] * pictures, 2 * pictures)
        n = len(self.rows)
        latents = draw(pictures, 4, *size, seed=seed)
        self.x = torch.cat([latents, latents])
        self.t = torch.linspace(500, 100, n)
        self.text, self.y = draw(n, 77, 2048, seed=seed + 1), vector(diffusers_control(), n)

    def plain(self, unet: nn.Module, first: int = 0, after: int | None = None) -> Tensor:
        some = slice(first, after)
        return unet(self.x[some], self.t[some], context=self.text[some], y=self.y[some])

    def run(self, unet: nn.Module, *prompts: ImagePrompt, step: int = 0, steps: int = 1) -> Tensor:
        with Injection(unet, cross_attention_layers(unet), prompts) as injection:
            injection.begin(self.rows, step, steps, size=tuple(self.x.shape[-2:]))
            return self.plain(unet)


def theirs(unet: nn.Module, step: Step, context: Tensor, hint: Tensor, scale: float, mask: Tensor | None = None):
    """diffusers' residuals (the skips' and the middle's), weighted by ``mask`` [height, width], and its whole step."""
    down, middle = diffusers_control()(
        step.x, step.t, context, hint, conditioning_scale=scale, added_cond_kwargs=told(step.y), return_dict=False
    )
    if mask is not None:
        down, middle = [one * at(mask, one) for one in down], middle * at(mask, middle)
    whole = diffusers_twin(unet)(
        step.x, step.t, encoder_hidden_states=step.text, added_cond_kwargs=told(step.y),
        down_block_additional_residuals=list(down), mid_block_additional_residual=middle,
    ).sample  # fmt: skip
    return [*down, middle], whole


def at(mask: Tensor, like: Tensor) -> Tensor:
    return nn.functional.adaptive_avg_pool2d(mask[None, None], like.shape[-2:])


def sides(keypoints: Keypoints, rows: Rows) -> Tensor:
    return torch.stack([(keypoints.cond if row.cond else keypoints.uncond)[row.picture] for row in rows])


@pytest.mark.parametrize("size", [(16, 16), (13, 9)])
def test_the_network_gives_what_diffusers_gives(size: tuple[int, int], deep: ControlNetwork) -> None:
    step = Step(size)
    hint, context = draw(2, 3, 8 * size[0], 8 * size[1], seed=1).sigmoid(), draw(2, 16, 2048, seed=2)
    deep.fit(xl_unet(SDXL))
    deep.to(CPU, torch.float32)
    ours = deep(step.x, step.t, context, step.y, deep.embed(hint))
    deep.leave_device()
    down, middle = diffusers_control(SDXL)(
        step.x, step.t, context, hint, added_cond_kwargs=told(step.y), return_dict=False
    )
    assert len(ours) == 10
    for one, other in zip(ours, [*down, middle], strict=True):
        assert other.abs().mean() > 0.1
        assert close(one, other), (one - other).abs().max()


def test_the_random_network_hears_its_hint(control: ControlNetwork) -> None:
    """Random convolutions make a picture quieter from layer to layer; then no test here would miss the hint."""
    control.to(CPU, torch.float32)
    one, other = (control.embed(drawing(seed)((64, 64), (0, 0, 64, 64), (64, 64))[None]) for seed in (1, 2))
    latents = control.modules.input_blocks[0](draw(1, 4, 8, 8, seed=3), None, None)
    control.leave_device()
    assert 0.2 < float((one - other).std() / latents.std()) < 2


def test_an_inpainting_models_further_channels_are_not_its(control: ControlNetwork, unet) -> None:
    step, hint, context = Step(), draw(2, 32, 8, 8, seed=1), draw(2, 16, 2048, seed=2)
    control.fit(unet)
    control.to(CPU, torch.float32)
    four, nine = (
        control(x, step.t, context, step.y, hint)
        for x in (step.x, torch.cat([step.x, draw(2, 5, 8, 8, seed=3)], dim=1))
    )
    control.leave_device()
    assert all(torch.equal(one, other) for one, other in zip(four, nine, strict=True))


def test_the_whole_step_is_diffusers(control: ControlNetwork, unet) -> None:
    """Two pictures, each with a face of its own; [cond, cond, uncond, uncond] rows."""
    step, keypoints = Step((16, 16), pictures=2), points(control, pictures=2, strength=0.7)
    twin = diffusers_twin(unet)
    plain = step.plain(unet)
    assert close(plain, twin(step.x, step.t, encoder_hidden_states=step.text, added_cond_kwargs=told(step.y)).sample)
    hint = torch.stack([keypoints.drawings[row.picture]((128, 128), (0, 0, 128, 128), (128, 128)) for row in step.rows])
    _, whole = theirs(unet, step, sides(keypoints, step.rows), hint, 0.7)
    ours = step.run(unet, prompt(unet, keypoints))
    assert (ours - plain).abs().mean() > 1e-2
    assert close(ours, whole), (ours - whole).abs().max()


def test_a_masks_share_of_the_residuals_is_diffusers(control: ControlNetwork, unet) -> None:
    step, keypoints, mask = Step((16, 16)), points(control), draw(16, 16, seed=4).sigmoid()
    hint = keypoints.drawings[0]((128, 128), (0, 0, 128, 128), (128, 128))[None].repeat(2, 1, 1, 1)
    _, whole = theirs(unet, step, sides(keypoints, step.rows), hint, 0.8, mask)
    assert close(step.run(unet, prompt(unet, keypoints, region=Region(mask))), whole)


def left(side: int = 8) -> Tensor:
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return mask


def test_two_halves_are_one_whole(control: ControlNetwork, unet) -> None:
    step, keypoints = Step(), points(control)
    whole = step.run(unet, prompt(unet, keypoints, 0.5))
    halves = [prompt(unet, keypoints, 0.5, region=Region(mask)) for mask in (left(), 1 - left())]
    assert close(step.run(unet, *halves), whole, 1e-5)
    assert not close(step.run(unet, halves[0]), whole, 1e-3)
    strengths = [prompt(unet, points(control, strength=0.4), 0.25) for _ in range(2)]
    assert close(step.run(unet, *strengths), whole, 1e-5)


def test_several_persons_add_each_in_a_region(control: ControlNetwork, unet) -> None:
    step, one, other = Step((16, 16)), points(control, 30), points(control, 60)
    made = []
    for keypoints, mask in ((one, left(16)), (other, 1 - left(16))):
        hint = keypoints.drawings[0]((128, 128), (0, 0, 128, 128), (128, 128))[None].repeat(2, 1, 1, 1)
        made.append(theirs(unet, step, sides(keypoints, step.rows), hint, 0.8, mask)[0])
    total = [a + b for a, b in zip(*made, strict=True)]
    twin = diffusers_twin(unet)(
        step.x, step.t, encoder_hidden_states=step.text, added_cond_kwargs=told(step.y),
        down_block_additional_residuals=total[:-1], mid_block_additional_residual=total[-1],
    ).sample  # fmt: skip
    ours = step.run(unet, prompt(unet, one, region=Region(left(16))), prompt(unet, other, region=Region(1 - left(16))))
    assert close(ours, twin)


def test_strength_zero_is_nothing_bit_for_bit(control: ControlNetwork, unet) -> None:
    step, off = Step(), points(control, strength=0.0)
    assert torch.equal(step.run(unet, prompt(unet, off)), step.plain(unet))
    assert torch.equal(step.run(unet, prompt(unet, off, 0.7)), step.run(unet, prompt(unet, None, 0.7)))


def test_both_parts_of_instantid_act_together(control: ControlNetwork, unet) -> None:
    step, keypoints = Step(), points(control)
    both, faces, control_alone = (
        step.run(unet, one) for one in (prompt(unet, keypoints, 0.7), prompt(unet, None, 0.7), prompt(unet, keypoints))
    )
    for one, other in itertools.combinations((both, faces, control_alone, step.plain(unet)), 2):
        assert (one - other).abs().mean() > 1e-3


@pytest.mark.parametrize("parts", [(2, 4), (1, 2, 3, 4)])
def test_rows_apart_are_rows_together(parts: tuple[int, ...], control: ControlNetwork, unet) -> None:
    step, one = Step(pictures=2), prompt(unet, points(control, pictures=2), 0.5)
    together = step.run(unet, one)
    with Injection(unet, cross_attention_layers(unet), [one]) as injection:
        injection.begin(step.rows, 0, 1, size=(8, 8))
        apart = torch.cat([step.plain(unet, *ends) for ends in zip((0, *parts), parts, strict=False)])
    assert close(apart, together, 1e-5)


def test_a_picture_of_a_batch_is_the_picture_alone(control: ControlNetwork, unet) -> None:
    """With its own face, by its index in the job; the uncond rows' tokens are the uncond side's."""
    step, keypoints = Step(pictures=2), points(control, pictures=3)
    together = step.run(unet, prompt(unet, keypoints, picture_offset=1))
    for picture in (0, 1):
        alone = Step()
        rows = [picture, 2 + picture]
        alone.x, alone.t, alone.text, alone.y = (one[rows] for one in (step.x, step.t, step.text, step.y))
        assert close(alone.run(unet, prompt(unet, keypoints, picture_offset=1 + picture)), together[rows], 1e-5)
        assert not close(alone.run(unet, prompt(unet, keypoints, picture_offset=2 - 2 * picture)), together[rows], 1e-3)
    swapped = Keypoints(control, keypoints.drawings, keypoints.uncond, keypoints.cond)
    assert not close(step.run(unet, prompt(unet, swapped, picture_offset=1)), together, 1e-3)


def test_rows_of_and_prompts_share_their_pictures_face(control: ControlNetwork, unet) -> None:
    step = Step()
    one, plain = prompt(unet, points(control)), step.run(unet, prompt(unet, points(control)))
    step.x, step.t, step.text, step.y = (torch.cat([x[:1], x]) for x in (step.x, step.t, step.text, step.y))
    step.rows = layout([2], 3)
    both = step.run(unet, one)
    assert close(both[1:], plain, 1e-5)
    assert close(both[:1], plain[:1], 1e-5)


def test_rows_that_a_host_announces_with_each_call(control: ControlNetwork, unet) -> None:
    step = Step()
    expected = step.run(unet, prompt(unet, points(control)))
    with Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control))]) as injection:
        rows = (Row(False, 0), Row(True, 0))
        injection.begin(rows, 0, 1, size=(8, 8), rows_of_call=lambda _kwargs, n: rows)
        turned = unet(step.x.flip(0), step.t.flip(0), step.text.flip(0), step.y.flip(0))
    assert close(turned.flip(0), expected, 1e-5)


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (7, 10)])
def test_odd_sizes_on_ldms_unet(size: tuple[int, int], deep: ControlNetwork) -> None:
    unet = build_unet("sdxl", torch.Generator().manual_seed(1)).eval()
    step, whole = Step(size), prompt(unet, points(deep))
    plain, ours = step.plain(unet), step.run(unet, whole)
    assert (ours - plain).abs().mean() > 1e-3
    masks = [draw(40, 40, seed=9).sigmoid()]
    masks.append(1 - masks[0])
    halves = step.run(unet, *(prompt(unet, points(deep), region=Region(mask)) for mask in masks))
    assert close(halves, ours, 1e-4)
    assert torch.equal(step.plain(unet), plain)


def test_hosts_that_call_the_layers_of_a_block_by_themselves(control: ControlNetwork, unet, monkeypatch) -> None:
    step, expected = Step(), Step().run(unet, prompt(unet, points(control)))

    def forward(stage: nn.Module, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return type(stage).forward(stage, x, emb, context)

    for stage in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        monkeypatch.setattr(type(stage), "__call__", forward)
    assert torch.equal(step.run(unet, prompt(unet, points(control))), expected)


def test_detached_it_is_gone(control: ControlNetwork, unet) -> None:
    step = Step()
    before = step.plain(unet)
    hooked = [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    injection = Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control))]).attach()
    assert torch.equal(step.plain(unet), before)  # attached, but no step was announced
    injection.begin(step.rows, 0, 1, size=(8, 8))
    assert not torch.equal(step.plain(unet), before)
    injection.pause()
    assert torch.equal(step.plain(unet), before)
    injection.begin(step.rows, 0, 1, size=(8, 8))
    assert injection.detach() is Outcome.ACTED
    assert torch.equal(step.plain(unet), before)
    assert [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks] == hooked
    assert control.place is None
    assert all(weight.is_meta for weight in control.modules.parameters())


def test_a_call_that_broke_off_leaves_nothing_to_the_next(control: ControlNetwork, unet) -> None:
    step, other, one = Step(), Step(seed=80), prompt(unet, points(control))
    expected = other.run(unet, one)
    with Injection(unet, cross_attention_layers(unet), [one]) as injection:
        injection.begin(step.rows, 0, 1, size=(8, 8))
        handle = unet.output_blocks[3].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            step.plain(unet)
        handle.remove()
        injection.cursor.position = 0
        assert torch.equal(other.plain(unet), expected)


def test_a_call_that_passes_the_middle_by_is_counted_as_lost(control: ControlNetwork, unet, monkeypatch) -> None:
    """An extension that makes a step from what it has kept of an earlier one."""
    step = Step()

    def shortened(x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor) -> Tensor:
        return unet.out(unet.input_blocks[0](x, None, context))

    with Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control))]) as injection:
        injection.begin(step.rows, 0, 2, size=(8, 8))
        step.plain(unet)
        assert injection.lost == 0
        monkeypatch.setattr(unet, "forward", shortened)
        injection.begin(step.rows, 1, 2, size=(8, 8))
        step.plain(unet)
        assert injection.lost == 1


def test_hosts_that_compute_in_inference_mode(control: ControlNetwork, unet) -> None:
    step, expected = Step(), Step().run(unet, prompt(unet, points(control), 0.5))
    with torch.inference_mode():
        assert torch.equal(step.run(unet, prompt(unet, points(control), 0.5)), expected)
    assert torch.equal(step.run(unet, prompt(unet, points(control), 0.5)), expected)


def test_its_steps_are_its_own(control: ControlNetwork, unet) -> None:
    step = Step()
    one = prompt(unet, points(control, start=0.5, end=1.0), 0.7, start=0.0, end=0.5)
    plain, faces, control_alone = (
        step.plain(unet),
        step.run(unet, prompt(unet, None, 0.7)),
        step.run(unet, prompt(unet, points(control))),
    )
    for number, expected in enumerate((faces, faces, control_alone, control_alone)):
        assert torch.equal(step.run(unet, one, step=number, steps=4), expected)
        assert one.acts_in(number, 4)
    late = prompt(unet, points(control, start=0.5), 0.0)
    assert torch.equal(step.run(unet, late, step=0, steps=4), plain)
    assert late.fired is False
    assert torch.equal(step.run(unet, late, step=2, steps=4), control_alone)
    assert late.fired is True


@pytest.mark.parametrize(("end", "last"), [(1.0, 3), (0.5, 1)], ids=["to the end", "half"])
def test_after_its_last_step_the_network_makes_room(end: float, last: int, control: ControlNetwork, unet) -> None:
    """A host decodes, upscales and samples anew before it tells that the pass is over."""
    step = Step()
    seen, pictures = [], []
    with Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control, end=end))]) as injection:
        for _ in range(2):  # the second pass finds everything again
            for number in range(4):
                injection.begin(step.rows, number, 4, size=(8, 8))
                for call in range(2):  # rows apart, or a sampler that asks twice
                    pictures.append(step.plain(unet))
                    seen.append((number, call, control.place is not None))
        assert not injection.residuals._hints
    assert seen == 2 * [(n, call, (n, call) < (last, 1)) for n in range(4) for call in range(2)]
    half = len(pictures) // 2
    assert all(torch.equal(one, other) for one, other in zip(pictures[:half], pictures[half:], strict=True))


def test_calls_of_unknown_rows_and_of_unknown_place_stay_as_they_are(control: ControlNetwork, unet) -> None:
    step = Step()
    plain = step.plain(unet)
    with Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control))]) as injection:
        injection.begin(step.rows, 0, 1, size=(8, 8), rows_of_call=lambda _kwargs, n: None)
        assert torch.equal(step.plain(unet), plain)
        assert injection.lost == 1
        assert injection.outcome is Outcome.LOST
    with Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control))]) as injection:
        injection.begin(step.rows, 0, 1, size=(16, 16))  # so this is one of its tiles
        assert torch.equal(step.plain(unet), plain)
        assert injection.outcome is Outcome.MISPLACED


def test_the_hint_is_drawn_once_a_pass_at_its_size_and_of_its_part(control: ControlNetwork, unet) -> None:
    drawn = []

    def record(picture, box, size):
        drawn.append((picture, box, size))
        return drawing(3)(picture, box, size)

    keypoints = Keypoints(control, (record,), *draw(2, 16, 2048, seed=8).chunk(2))
    for side in (8, 16):
        step, one = Step((side, side)), prompt(unet, keypoints)
        with Injection(unet, cross_attention_layers(unet), [one]) as injection:
            for number in range(2):
                injection.begin(step.rows, number, 2, size=(side, side))
                step.plain(unet)
        pixels = 8 * side
        assert drawn == [((pixels, pixels), (0, 0, pixels, pixels), (pixels, pixels))]
        drawn.clear()
    parts = Part((96, 128), ((10, 20, 32, 48), (0, 0, 64, 64)))
    step = Step(pictures=2)
    step.run(unet, prompt(unet, keypoints, part=parts))
    assert drawn == [((96, 128), box, (64, 64)) for box in parts.boxes]


def test_a_part_sees_what_the_whole_has_there(control: ControlNetwork, unet) -> None:
    """A hint of the whole picture, cut by hand, gives what the part gives."""
    step, whole = Step(), drawing(3)((128, 128), (0, 0, 128, 128), (128, 128))
    box = (64, 32, 64, 64)
    cut = whole[:, 32:96, 64:128]
    tokens = draw(2, 16, 2048, seed=8).chunk(2)
    ours = step.run(unet, prompt(unet, Keypoints(control, (drawing(3),), *tokens), part=Part((128, 128), (box,))))
    by_hand = step.run(unet, prompt(unet, Keypoints(control, (lambda *_: cut,), *tokens)))
    assert torch.equal(ours, by_hand)


# --- where it computes ----------------------------------------------------------------------------------------------


def test_weights_in_turn_compute_the_same_and_leave(control: ControlNetwork, unet, monkeypatch) -> None:
    step = Step()
    expected = step.run(unet, prompt(unet, points(control)))
    asked, there = [], []

    def full(device: torch.device, nbytes: int) -> bool:
        asked.append(nbytes)
        return False

    fill = ControlNetwork._fill

    def watched(network: ControlNetwork, piece: nn.Module) -> None:
        fill(network, piece)
        there.append(sum(weight.numel() for weight in network.modules.parameters() if not weight.is_meta))

    monkeypatch.setattr(residuals, "has_room", full)
    monkeypatch.setattr(ControlNetwork, "_fill", watched)
    assert torch.equal(step.run(unet, prompt(unet, points(control))), expected)
    assert max(asked) == control.bytes_in(torch.float32) + 2**16 * 2 * 64
    assert max(there) < 0.2 * sum(tensor.numel() for tensor in control.state.values())
    assert all(weight.is_meta for weight in control.modules.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in control.modules.modules())


def test_a_full_device_has_them_in_turn_and_else_one_sentence(control: ControlNetwork, unet, monkeypatch) -> None:
    step, fill, failures = Step(), ControlNetwork._fill, [1]
    expected = step.run(unet, prompt(unet, points(control)))

    def scarce(network: ControlNetwork, piece: nn.Module) -> None:
        if failures and len(network._pieces[piece]) > 10:
            failures.pop()
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        fill(network, piece)

    monkeypatch.setattr(ControlNetwork, "_fill", scarce)
    assert torch.equal(step.run(unet, prompt(unet, points(control))), expected)
    assert failures == []
    failures += [1, 1]
    with pytest.raises(DeviceMemoryError, match="no room for InstantID's network .*keypoints_weight to 0"):
        step.run(unet, prompt(unet, points(control)))
    assert control.place is None
    assert torch.equal(step.plain(unet), Step().plain(unet))
    monkeypatch.setattr(ControlNetwork, "_fill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step.run(unet, prompt(unet, points(control)))


def test_a_job_inside_another_takes_the_network_and_leaves_it(control: ControlNetwork, unet) -> None:
    step, one = Step(), prompt(unet, points(control))
    expected = step.run(unet, one)
    with Injection(unet, cross_attention_layers(unet), [one]) as outer:
        outer.begin(step.rows, 0, 1, size=(8, 8))
        assert torch.equal(step.plain(unet), expected)
        outer.pause()
        assert torch.equal(Step().run(unet, prompt(unet, points(control))), expected)
        outer.begin(step.rows, 0, 1, size=(8, 8))
        assert torch.equal(step.plain(unet), expected)


def test_it_computes_in_the_unets_dtype(control: ControlNetwork, unet) -> None:
    """Its weights, of whatever dtype in the file, are cast; what it is told is, too."""
    step, half = Step(), ControlNetwork(control.spec, {name: w.bfloat16() for name, w in control.state.items()})
    assert half.nbytes == control.nbytes // 2
    near = step.run(unet, prompt(unet, points(half)))
    exact, plain = step.run(unet, prompt(unet, points(control))), step.plain(unet)
    assert 0 < (near - exact).abs().mean() < 0.1 * (exact - plain).abs().mean()
    places = []
    embed = ControlNetwork.embed

    class Watched(ControlNetwork):
        def embed(self, hint: Tensor) -> Tensor:
            places.append(self.place)
            return embed(self, hint)

    watched = Watched(control.spec, control.state)
    low = Step()
    low.x, low.text, low.y = low.x.bfloat16(), low.text.bfloat16(), low.y.bfloat16()
    in_half = copy.deepcopy(unet).bfloat16()
    assert low.run(in_half, prompt(in_half, points(watched))).dtype == torch.bfloat16
    assert places == [(CPU, torch.bfloat16)]


def test_building_it_draws_no_number_and_takes_no_memory(control: ControlNetwork) -> None:
    before = torch.get_rng_state()
    made = ControlNetwork(control.spec, control.state)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.is_meta for weight in made.modules.parameters())
    assert {name for name, _ in made.modules.named_parameters()} == set(made.state)


@pytest.mark.parametrize("make", [sd_unet, lambda: sdxl_with(depth=1)])
def test_a_unet_that_it_does_not_fit(make, control: ControlNetwork) -> None:
    unet = make()
    with pytest.raises(MismatchError, match="does not fit the loaded model.*SDXL checkpoint, or set keypoints_weight"):
        Injection(unet, cross_attention_layers(unet), [prompt(unet, points(control))])


def test_a_network_of_another_size_is_not_the_models_fault(control: ControlNetwork) -> None:
    """A small ControlNet, say, whose name says InstantID."""
    with pytest.raises(
        MismatchError, match="is of another size than SDXL's UNet.*InstantX/InstantID.*keypoints_weight"
    ):
        control.fit(sdxl_unet())


def sdxl_with(depth: int) -> nn.Module:
    unet = copy.deepcopy(sdxl_unet())
    del unet.middle_block[1].transformer_blocks[depth:]
    return unet
