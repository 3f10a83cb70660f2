"""A LoRA in the weights themselves, for the time of a call: the numbers that it has beside them, whatever the host does
with its weights meanwhile, and never in anybody else's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_ipadapter.attend import merged as module
from lib_ipadapter.attend import room
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.lora import Lora
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.attend.uncompiled import has_compiled
from tests.helpers.loras import face_lora
from tests.helpers.prompts import inputs, make_prompt
from tests.helpers.tensors import close, draw
from tests.helpers.unets import sd_unet

ROWS = layout([1], 2)
STEPS = 12
MERGED_FROM = 2  # the first call whose weights nobody has touched in the one before


@pytest.fixture
def unet() -> nn.Module:
    """One of its own: tests write into its weights."""
    return sd_unet()


@pytest.fixture(autouse=True)
def roomy(monkeypatch) -> None:
    """Whatever else runs on the machine."""
    monkeypatch.setattr(module, "has_plenty", lambda _device, _nbytes: True)


class Run:
    """A job's calls of a UNet, and in which of them how many layers had a merged weight."""

    def __init__(self, unet: nn.Module, prompts: list[ImagePrompt], *, merge: bool = True) -> None:
        self.unet, self.prompts = unet, prompts
        self.injection = Injection(unet, cross_attention_layers(unet), prompts)
        self.weights = dict(unet.named_parameters())
        self.merged: list[int] = []
        self.host_weights: Callable[[], float] | None = None
        if not merge:
            self.injection.lora.merged.give_up()

    def __call__(self, step: int, steps: int = STEPS) -> Tensor:
        self.injection.begin(ROWS, step, steps, host_weights=self.host_weights)
        x, t, text = inputs(self.unet, seed=100 + step)
        return self.unet(x, t, context=text)

    def __enter__(self) -> Run:
        self.injection.attach()
        self._handle = self.unet.out.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._handle.remove()
        self.injection.detach()
        self.check_own()

    def _count(self, *_: Any) -> None:
        now = dict(self.unet.named_parameters())
        self.merged.append(sum(now[name] is not weight for name, weight in self.weights.items()))

    def check_own(self) -> None:
        """Every layer has the parameter that it had."""
        now = dict(self.unet.named_parameters())
        assert all(now[name] is weight for name, weight in self.weights.items())


def prompt_with(unet: nn.Module, seed: int = 5, **options: Any) -> ImagePrompt:
    lora = options.pop("lora", None) or face_lora(unet)
    return make_prompt(unet, seed, 0.8, lora=lora, **options)


def outputs(
    unet: nn.Module, prompts: list[ImagePrompt], steps: Sequence[int] = tuple(range(STEPS)), *, merge: bool = True,
    of: int = STEPS, between: Callable[[int], None] = lambda call: None,
    host_weights: Callable[[], float] | None = None,
) -> tuple[list[Tensor], list[int]]:  # fmt: skip
    """Of a job's calls, before each of which ``between`` is called; and how many layers had a merged weight in each."""
    with Run(unet, prompts, merge=merge) as run:
        run.host_weights = host_weights
        found = []
        for call, step in enumerate(steps):
            between(call)
            found.append(run(step, of))
            run.check_own()
        return found, run.merged


def all_close(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(close(one, other) for one, other in zip(some, others, strict=True))


def linears(unet: nn.Module) -> list[nn.Linear]:
    layers = cross_attention_layers(unet)
    found = []
    for layer in layers:
        for attention in (layer.self_attention, layer.module):
            found += [attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]]
    return found


def test_a_job_is_what_it_is_with_the_lora_beside_the_layers(unet) -> None:
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    beside, none = outputs(unet, [prompt_with(unet)], merge=False)
    within, merged = outputs(unet, [prompt_with(unet)])
    without, _ = outputs(unet, [replace(prompt_with(unet), lora=Lora("none", face_lora(unet).tensors, 0.0))])
    assert all_close(within, beside) and not all_close(within, without)
    assert none == [0] * STEPS
    assert merged == [0] * MERGED_FROM + [len(linears(unet))] * (STEPS - MERGED_FROM)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


def test_two_files_and_strengths_are_in_one_weight(unet) -> None:
    prompts = [
        prompt_with(unet, lora=face_lora(unet, 0.7)),
        prompt_with(unet, seed=6, lora=face_lora(unet, -0.4, seed=500, rank=3)),
    ]
    within, merged = outputs(unet, prompts)
    assert merged[-1] == len(linears(unet)) and all_close(within, outputs(unet, prompts, merge=False)[0])


def test_what_acts_in_some_steps_alone_is_merged_for_these(unet) -> None:
    """One unit's window ends where another's begins; in between nothing acts, or both."""
    for first, second in ((0.4, 0.6), (0.6, 0.4)):
        prompts = [
            prompt_with(unet, end=first), prompt_with(unet, seed=6, lora=face_lora(unet, seed=500), start=second)
        ]  # fmt: skip

        def run(merge: bool, prompts: list[ImagePrompt] = prompts) -> Any:
            with Run(unet, prompts, merge=merge) as run:
                return [run(step, 30) for step in range(30)], run.merged

        (within, merged), (beside, _) = run(True), run(False)
        assert all_close(within, beside)
        assert len(linears(unet)) in merged[:12] and len(linears(unet)) in merged[18:]


def test_a_job_of_few_steps_merges_nothing(unet) -> None:
    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(4):
            run(step, 4)
    assert run.merged == [0] * 4


def test_the_last_step_leaves_the_room_to_what_comes_after(unet) -> None:
    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(STEPS):
            run(step)
            assert run.injection.lora.merged.is_there == (MERGED_FROM <= step < STEPS - 1)


def test_calls_of_single_rows_have_it_to_the_last(unet) -> None:
    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(STEPS):
            run.injection.begin(ROWS, step, STEPS)
            x, t, text = inputs(unet, seed=100 + step)
            for i in (0, 1):
                run.unet(x[i : i + 1], t[i : i + 1], context=text[i : i + 1])
    assert run.merged == [0] * MERGED_FROM + [len(linears(unet))] * (2 * STEPS - MERGED_FROM)
    assert not run.injection.lora.merged.is_there


def test_hooks_that_were_cleaned_away_in_the_middle_merge_again(unet) -> None:
    """By a job inside this one."""
    beside, _ = outputs(unet, [prompt_with(unet)], range(18), of=18, merge=False)
    with Run(unet, [prompt_with(unet)]) as run:
        found = []
        for step in range(18):
            if step == 6:
                run.injection.detach()
                run.injection.attach()
            found.append(run(step, 18))
    whole = len(linears(unet))
    assert all_close(found, beside) and run.merged == [0, 0, *[whole] * 4, 0, 0, *[whole] * 10]


def test_somebody_elses_call_within_one_of_ours_has_the_layers_own_weights(unet) -> None:
    threes = inputs(unet, rows=3)
    plain = unet(threes[0], threes[1], context=threes[2])
    within: list[Tensor] = []

    def call(*_: Any) -> None:
        handle.remove()
        within.append(unet(threes[0], threes[1], context=threes[2]))

    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(4):
            run(step)
        handle = unet.middle_block.register_forward_pre_hook(call)
        run(4)
        run.check_own()
    assert torch.equal(within[0], plain)


def test_another_jobs_calls_have_the_layers_own_weights(unet) -> None:
    x, t, text = inputs(unet)
    plain = unet(x, t, context=text)
    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(6):
            run(step)
        run.injection.pause()
        assert torch.equal(unet(x, t, context=text), plain)
        threes = inputs(unet, rows=3)  # no rows of ours, though a step is announced
        run.injection.begin(ROWS, 6, STEPS)
        assert torch.equal(unet(threes[0], threes[1], context=threes[2]), without_hooks(unet, *threes))
        run(7)
    assert run.merged[2:6] == [len(linears(unet))] * 4 and run.merged[-1] == len(linears(unet))


def without_hooks(unet: nn.Module, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    twin = sd_unet()
    twin.load_state_dict(unet.state_dict())
    return twin(x, t, context=text)


# --- hosts that change weights ---------------------------------------------------------------------------------------


def writes(unet: nn.Module, seed: int) -> None:
    """As a host's LoRA writes into weights."""
    for i, layer in enumerate(linears(unet)):
        layer.weight += 0.05 * draw(*layer.weight.shape, seed=seed + i)


@pytest.mark.parametrize("when", [(6,), (3, 6, 9, 12)])
def test_what_the_host_adds_between_calls_is_there_at_once(when: tuple[int, ...], unet) -> None:
    """It is merged into some calls later, but not ever again."""
    steps = range(18)

    def added(merge: bool) -> Any:
        own = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
        found = outputs(
            unet, [prompt_with(unet)], steps, of=18, merge=merge,
            between=lambda call: writes(unet, 900 * call) if call in when else None,
        )  # fmt: skip
        unet.load_state_dict(own)
        return found

    (within, merged), (beside, _) = added(True), added(False)
    assert all_close(within, beside)
    whole, beside_for = len(linears(unet)), MERGED_FROM
    expected = [0] * MERGED_FROM + [whole] * (18 - MERGED_FROM)
    for tries, call in enumerate(when, 1):
        expected[call:] = (
            [0] * (18 - call) if tries == module.TRIES else [0] * beside_for + [whole] * (18 - call - beside_for)
        )
        if tries == module.TRIES:
            break
    assert merged == expected


def test_a_parameter_in_the_place_of_another_is_met(unet) -> None:
    """And is there afterwards."""
    layer = linears(unet)[5]
    new = nn.Parameter(layer.weight + 0.05 * draw(*layer.weight.shape, seed=1), requires_grad=False)
    old = layer.weight

    def run(merge: bool) -> list[Tensor]:
        layer.weight = old
        injection = Injection(unet, cross_attention_layers(unet), [prompt_with(unet)])
        injection.lora.merged._tries *= merge
        found = []
        with injection:
            for step in range(STEPS):
                if step == 5:
                    layer.weight = new
                injection.begin(ROWS, step, STEPS)
                x, t, text = inputs(unet, seed=100 + step)
                found.append(unet(x, t, context=text))
        assert layer.weight is new
        return found

    assert all_close(run(True), run(False))


class Lazy:
    """The WebUI's own Lora: at its call a layer puts back what is kept and adds what is wanted by now; the first time
    that anything is wanted, what the layer has is kept."""

    def __init__(self, unet: nn.Module) -> None:
        self.wanted: float = 0.0
        self.current, self.kept, self.handles = dict.fromkeys(linears(unet), 0.0), {}, []
        for i, layer in enumerate(linears(unet)):
            delta = 0.05 * draw(*layer.weight.shape, seed=900 + i)
            self.handles.append(layer.register_forward_pre_hook(self._apply(delta)))

    def _apply(self, delta: Tensor) -> Callable[..., None]:
        def apply(layer: nn.Module, _args: Any) -> None:
            if layer not in self.kept and self.wanted:
                assert self.current[layer] == 0
                self.kept[layer] = layer.weight.clone()
            if self.current[layer] != self.wanted:
                layer.weight.copy_(self.kept[layer])
                layer.weight.copy_(layer.weight + self.wanted * delta)
                self.current[layer] = self.wanted

        return apply

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        for layer, weight in self.kept.items():
            layer.weight.copy_(weight)


def beside_lazy(
    unet: nn.Module, wanted: Callable[[int], float], steps: Sequence[int] = tuple(range(STEPS)), of: int = STEPS,
    *, tells: bool,
) -> tuple[list[int], list[Tensor], list[Tensor]]:  # fmt: skip
    """A job beside a host that wants its LoRA so strong in each call, and tells that it will write: how many layers had
    merged weights in each call, what came, and what comes with our LoRA beside the layers. The host's weights are
    afterwards, without its LoRA, what they were."""
    own = {name: tensor.clone() for name, tensor in unet.state_dict().items()}

    def run(merge: bool) -> tuple[list[Tensor], list[int]]:
        host = Lazy(unet)

        def between(call: int) -> None:
            host.wanted = wanted(call)

        try:
            told = (lambda: host.wanted) if tells else None
            return outputs(unet, [prompt_with(unet)], steps, of=of, merge=merge, between=between, host_weights=told)
        finally:
            host.remove()
            assert all(torch.equal(tensor, own[name]) for name, tensor in unet.state_dict().items())

    (within, merged), (beside, _) = run(True), run(False)
    return merged, within, beside


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("first", [0.0, 1.0])
def test_another_prompts_lora_in_the_second_run_of_the_sampler(first: float, tells: bool, unet) -> None:
    """A job's second pass, or its next batch: the first call of each changes the weights."""
    steps = [*range(STEPS), *range(STEPS), *range(2, STEPS)]

    def wanted(call: int) -> float:
        return first if call < STEPS else 0.5 if call < 2 * STEPS else 0.0

    merged, within, beside = beside_lazy(unet, wanted, steps, tells=tells)
    assert all_close(within, beside)
    whole = len(linears(unet))
    assert merged[STEPS : STEPS + 2] == [0, 0] and merged[STEPS + 2] == whole and merged[STEPS - 1] == whole


@pytest.mark.parametrize("tells", [True, False])
def test_a_lora_whose_strength_changes_with_every_step_is_never_merged_into(tells: bool, unet) -> None:
    merged, within, beside = beside_lazy(unet, lambda call: 0.1 * (call + 1), tells=tells)
    assert all_close(within, beside) and merged == [0] * STEPS


@pytest.mark.parametrize(("before", "tells"), [(0.0, True), (1.0, True), (1.0, False)])
def test_a_lora_that_comes_or_changes_in_the_middle_is_there_at_once(before: float, tells: bool, unet) -> None:
    """Told, it is merged into again; untold, what was written in that call stays, and ours is beside the layers."""
    merged, within, beside = beside_lazy(
        unet, lambda call: before if call < 6 else 0.3, tuple(range(18)), 18, tells=tells
    )
    assert all_close(within, beside)
    whole = len(linears(unet))
    assert merged[6:] == ([0] * 2 + [whole] * 10 if tells else [whole] + [0] * 11)


def test_weights_that_move_within_a_call_have_moved(unet) -> None:
    """Where hosts bring layers to the device for their own time. The device is a dtype here, as there is no other."""
    layer = linears(unet)[3]
    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(4):
            run(step)
        replaced: list[Tensor] = []

        def move(moved: nn.Module, _args: Any) -> None:
            replaced.append(moved.weight)
            moved.weight.data = moved.weight.data.clone()

        handle = layer.register_forward_pre_hook(move)
        run(4)
        handle.remove()
        assert replaced[0] is not layer.weight
        run.check_own()
        run(5)
    assert run.merged[5] == 0


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_call_that_ends_in_an_error_leaves_nothing(error: type[BaseException], unet) -> None:
    x, t, text = inputs(unet)
    plain = unet(x, t, context=text)

    def fail(*_: Any) -> None:
        raise error("in the middle")

    with Run(unet, [prompt_with(unet)]) as run:
        for step in range(5):
            run(step)
        handle = unet.out.register_forward_pre_hook(fail)
        with pytest.raises(error):
            run(5)
        handle.remove()
        if error is RuntimeError:
            run.check_own()
        again = run(6)
    assert torch.equal(unet(x, t, context=text), plain)
    assert close(again, outputs(unet, [prompt_with(unet)], merge=False)[0][6])


def test_a_full_device_in_the_middle_of_a_call_lets_the_weights_go(unet) -> None:
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    with Run(unet, [prompt_with(unet)]) as run:
        found = [run(step) for step in range(5)]
        middle = unet.middle_block.register_forward_pre_hook(lambda *_: run.injection.keep_nothing(torch.device("cpu")))
        found.append(run(5))
        middle.remove()
        found += [run(step) for step in range(6, STEPS)]
    assert all_close(found, beside) and run.merged[5:] == [0] * (STEPS - 5)


def test_without_plenty_of_room_it_stays_beside_the_layers(unet, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "has_plenty", lambda _device, nbytes: asked.append(nbytes))
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    found, merged = outputs(unet, [prompt_with(unet)])
    assert all_close(found, beside) and merged == [0] * STEPS
    assert asked == [sum(layer.weight.nbytes for layer in linears(unet))]  # once


FULL = [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory"), MemoryError()]


@pytest.mark.parametrize(("n", "error"), [(1, FULL[0]), *((7, error) for error in FULL)])
def test_a_device_that_is_full_after_all_merges_nothing(n: int, error: Exception, unet, monkeypatch) -> None:
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    made: list[Any] = []

    class Scarce(module._Layer):
        def __init__(self, *args: Any) -> None:
            made.append(args)
            if len(made) == n:
                raise error
            super().__init__(*args)

    monkeypatch.setattr(module, "_Layer", Scarce)
    found, merged = outputs(unet, [prompt_with(unet)])
    assert all_close(found, beside) and merged == [0] * STEPS and len(made) == n


def test_a_quarter_of_the_memory_stays_free(monkeypatch, tmp_path) -> None:
    memory = SimpleNamespace(available=1000, total=2000)
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(virtual_memory=lambda: memory))
    assert room.has_plenty(torch.device("cpu"), 500) and not room.has_plenty(torch.device("cpu"), 501)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (300, 400))
    assert room.has_plenty(torch.device("cuda"), 200) and not room.has_plenty(torch.device("cuda"), 201)
    assert not room.has_plenty(torch.device("mps"), 1)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert not room.has_plenty(torch.device("cpu"), 1)


@pytest.mark.parametrize("names", room._CONTAINERS)
def test_a_containers_memory_is_what_it_may_have(names: tuple[str, str], monkeypatch, tmp_path) -> None:
    memory = SimpleNamespace(available=10_000, total=10_000)
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(virtual_memory=lambda: memory))
    limit, used = (tmp_path / name for name in names)
    limit.parent.mkdir(exist_ok=True)
    limit.write_text("1000\n")
    used.write_text("400\n")
    assert room.has_plenty(torch.device("cpu"), 350) and not room.has_plenty(torch.device("cpu"), 351)
    limit.write_text("max\n")
    assert room.has_plenty(torch.device("cpu"), 7500) and not room.has_plenty(torch.device("cpu"), 7501)


# --- layers that are left alone --------------------------------------------------------------------------------------


def test_layers_that_compute_in_another_dtype_or_have_no_plain_weight_keep_theirs(unet) -> None:
    class Cast(nn.Linear):
        """Its weights are stored otherwise than it computes, as hosts do to save memory."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight.to(x), self.bias)

    class Odd(nn.Parameter):
        pass

    stored, odd = linears(unet)[0], linears(unet)[1]
    stored.__class__ = Cast
    stored.weight = nn.Parameter(stored.weight.bfloat16(), requires_grad=False)
    odd.weight = Odd(odd.weight.detach(), requires_grad=False)
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    within, merged = outputs(unet, [prompt_with(unet)])
    assert all_close(within, beside) and merged[-2] == len(linears(unet)) - 2


@pytest.mark.parametrize("cached", [[0, 16, 64], [*range(128)]])
def test_layers_that_compute_with_weights_that_were_kept_elsewhere_have_it_beside_them(cached: list[int], unet) -> None:
    """As compiled code, and layers that keep a converted copy. The first call with merged weights shows it."""

    class Keeps(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            vars(self).setdefault("kept", (self.weight,))
            return nn.functional.linear(x, self.kept[0], self.bias)

    for number in cached:
        linears(unet)[number].__class__ = Keeps
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    within, merged = outputs(unet, [prompt_with(unet)])
    assert merged == [0] * MERGED_FROM + [len(linears(unet))] + [0] * (STEPS - MERGED_FROM - 1)
    del within[MERGED_FROM], beside[MERGED_FROM]
    assert all_close(within, beside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_computes_with_its_weight_is_known(dtype: torch.dtype) -> None:
    """Also where a LoRA is smaller than what is rounded, and by a row of zeros."""
    for strength in (1e-6, 1e-3, 1.0):
        linear = nn.Linear(64, 32).to(dtype)
        own, x = linear.weight, draw(2, 5, 64, seed=1).to(dtype)
        layer = module._Layer(linear, own, own + strength * draw(32, 64, seed=2).to(dtype))
        without = linear(x)
        layer.put_in()
        assert layer.is_used(x, linear(x)) and layer.is_used(0 * x, linear(0 * x))
        assert strength < 1 or not layer.is_used(x, without)
        layer.put_back()
        assert layer.settle() and linear.weight is own


def test_half_precision_weights_have_a_lora_as_exact_as_they_are(unet) -> None:
    unet.half()
    lora = face_lora(unet)
    (layer, *_), weight = linears(unet), linears(unet)[0].weight
    with Run(unet, [prompt_with(unet, lora=lora)]) as run:
        run.injection.lora.hooked[0][1].matrices = run.injection.lora.hooked[0][1].matrices or _matrices(lora, weight)
        merged = run.injection.lora.hooked[0][1].merge(weight)
    exact = weight.double() + lora.up(0, "q").half().double() @ lora.down(0, "q").half().double()
    assert merged.dtype == torch.float16 and layer.weight is weight
    assert (merged.double() - exact).abs().max() <= 2.0**-11 * exact.abs().max()


def _matrices(lora: Lora, weight: Tensor) -> Any:
    from lib_ipadapter.attend.lora import _Matrices

    return _Matrices.gather([lora], 0, "q", weight)


@pytest.mark.parametrize("moved", [False, True])
def test_under_inference_mode_it_merges_too(moved: bool, unet) -> None:
    """Also into weights that were moved to their device there."""
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    with torch.inference_mode():
        if moved:
            unet.double().float()
            assert linears(unet)[0].weight.is_inference()
        within, merged = outputs(unet, [prompt_with(unet)])
    assert all_close(within, beside) and merged[-2] == len(linears(unet))


class Plain(nn.Module):
    """A linear layer of a host's own making, with what else it may do to its output."""

    def __init__(self, layer: nn.Linear, factor: float) -> None:
        super().__init__()
        self.weight, self.bias, self.factor = layer.weight, layer.bias, factor
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_layers_that_are_no_torchs_are_merged_into_if_they_do_the_same(factor: float, unet) -> None:
    prompt = prompt_with(unet)
    for i, layer in enumerate(cross_attention_layers(unet)):
        for attention in (layer.self_attention, layer.module):
            attention.to_q = Plain(attention.to_q, factor if i == 5 else 1.0)
            attention.to_out[0] = Plain(attention.to_out[0], 1.0)
    beside, _ = outputs(unet, [prompt], merge=False)
    within, merged = outputs(unet, [prompt])
    assert merged[MERGED_FROM] == 128 and merged[-2] == (128 if factor == 1 else 0)
    del within[MERGED_FROM], beside[MERGED_FROM]
    assert all_close(within, beside)


def test_weights_of_devices_that_do_not_say_where_they_are_stay_alone(unet) -> None:
    """As DirectML's, whose tensors have no pointer."""
    layer = linears(unet)[3]

    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(layer.weight.to_mkldnn(), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return layer(x)

    with pytest.raises(RuntimeError):
        Opaque().weight.data_ptr()
    first = cross_attention_layers(unet)[0].self_attention
    first.to_out[0] = Opaque()
    beside, _ = outputs(unet, [prompt_with(unet)], merge=False)
    within, merged = outputs(unet, [prompt_with(unet)])
    assert all_close(within, beside) and merged[-2] == 127


def test_two_jobs_in_one_model_merge_into_none_of_each_others(unet) -> None:
    own = dict(unet.named_parameters())

    def run(tries: int) -> list[Tensor]:
        prompts = [prompt_with(unet), prompt_with(unet, seed=6, lora=face_lora(unet, seed=500))]
        one, two = (Injection(unet, cross_attention_layers(unet), [prompt]) for prompt in prompts)
        found = []
        with one, two:
            for injection in (one, two):
                injection.lora.merged._tries = tries
            for step in range(STEPS):
                for injection in (one, two):
                    injection.begin(ROWS, step, STEPS)
                x, t, text = inputs(unet, seed=100 + step)
                found.append(unet(x, t, context=text))
                assert all(weight is own[name] for name, weight in unet.named_parameters())
        return found

    assert all_close(run(3), run(0))


def test_where_something_was_compiled_it_stays_beside_the_layers(unet, monkeypatch) -> None:
    def compiler(frames: dict[str, int]) -> SimpleNamespace:
        utils = SimpleNamespace(counters={"frames": frames} if frames else {})
        return SimpleNamespace(disable=lambda function: function, utils=utils)

    for frames, expected in (({}, len(linears(unet))), ({"total": 1}, 0)):
        monkeypatch.setitem(sys.modules, "torch._dynamo", compiler(frames))
        assert outputs(unet, [prompt_with(unet)])[1][-2] == expected
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace())
    assert has_compiled()  # where it does not say


def test_torchs_compiler_tells_whether_it_has_compiled() -> None:
    """In a process of its own: what was compiled stays."""
    import subprocess

    code = """
import torch
from lib_ipadapter.attend.uncompiled import has_compiled
import torch._dynamo
before = has_compiled()
torch.compile(torch.sin, backend="eager")(torch.ones(3))
print(before, has_compiled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
