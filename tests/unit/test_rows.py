"""Rows in every calling pattern of the host. Each pattern fails when rows are ignored."""

from __future__ import annotations

import pytest
import torch

from lib_ipadapter.attend.evidence import MARK, kinds_by_text, marks, pictures_by_latent
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.rows import Row, RowCursor, RowRule, layout, same_pictures
from tests.helpers.prompts import make_prompt
from tests.helpers.tensors import close, draw


def text(rows: int, tokens: int = 77, *, seed: int, width: int = 768) -> torch.Tensor:
    return draw(rows, tokens, width, seed=seed)


def outputs(unet, prompts, rows, calls):
    """One denoising step: ``calls`` are (x, text) pairs in order; the outputs, concatenated."""
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        injection.begin(rows, 0, 1, lambda: _texts(rows, calls))
        return torch.cat([unet(x, torch.full((len(x),), 500.0), context=c) for x, c in calls])


def _texts(rows, calls):
    singles = [c[None] for _, batch in calls for c in batch]
    cond = [c for row, c in zip(rows, singles) if row.cond]  # noqa: B905 (uncond rows may be skipped)
    uncond = [c for row, c in zip(rows, singles) if not row.cond]  # noqa: B905
    return (torch.cat(cond), torch.cat(uncond)) if cond and uncond else (None, None)


def row_by_row(unet, prompts, rows, calls):
    """The answer that needs no cursor: every row alone, its side known."""
    out = []
    rows = iter(rows)
    for x, batch in calls:
        for i in range(len(x)):
            row = next(rows)
            with Injection(unet, cross_attention_layers(unet), prompts) as injection:
                injection.begin((row,), 0, 1)
                out.append(unet(x[i : i + 1], torch.tensor([500.0]), context=batch[i : i + 1]))
    return torch.cat(out)


def x(rows: int, seed: int = 7) -> torch.Tensor:
    return draw(rows, 4, 8, 8, seed=seed)


CALLS = {  # name -> (prompts per picture, rows in all, rows of each UNet call with their number of text tokens)
    "batched": ([1], 2, [(2, 77)]),
    "batched, 4 pictures": ([1] * 4, 8, [(8, 77)]),
    "batch_cond_uncond off": ([1, 1], 4, [(2, 77), (2, 77)]),
    "prompts of different length": ([1, 1], 4, [(2, 154), (2, 77)]),
    "different length, batch_cond_uncond off": ([1, 1, 1], 6, [(3, 154), (3, 77)]),
    "AND prompts": ([2, 2], 6, [(6, 77)]),
    "AND prompts, different length": ([3, 3], 8, [(4, 154), (2, 154), (2, 77)]),
    "AND prompts, batch_cond_uncond off": ([3, 1], 6, [(2, 77), (2, 77), (2, 77)]),
    "skipped uncond": ([1, 1], 4, [(2, 77)]),
    "InstructPix2Pix": ([1, 1], 6, [(6, 77)]),
    "InstructPix2Pix, batch_cond_uncond off": ([1, 1], 6, [(2, 77), (2, 77), (2, 77)]),
}


@pytest.mark.parametrize("pattern", CALLS)
def test_every_row_gets_its_own_side(pattern: str, unet) -> None:
    counts, n_rows, shapes = CALLS[pattern]
    rows = layout(counts, n_rows)
    calls = [(x(n, seed=i), text(n, tokens, seed=40 + i)) for i, (n, tokens) in enumerate(shapes)]
    prompts = [make_prompt(unet, 5)]
    ours = outputs(unet, prompts, rows, calls)
    assert close(ours, row_by_row(unet, prompts, rows, calls))
    ignored = tuple(Row(True, row.picture) for row in rows)
    if any(not row.cond for row in rows[: len(ours)]):
        assert not close(ours, outputs(unet, prompts, ignored, calls), 1e-2)  # rows matter in this pattern
    else:
        last = tuple(Row(False, row.picture) for row in rows)
        assert not close(ours, outputs(unet, prompts, last, calls), 1e-2)


def test_a_second_call_in_the_same_step_starts_anew(unet) -> None:
    """Second-order samplers: every evaluation is announced and begins with the cond rows."""
    prompts, rows = [make_prompt(unet, 5)], layout([1], 2)
    first = text(1, seed=1), text(1, 154, seed=2)
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        results = []
        for _ in range(2):
            injection.begin(rows, 0, 1)
            results.append([unet(x(1), torch.tensor([500.0]), context=c) for c in first])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_after_a_skipped_uncond_the_next_step_is_right(unet) -> None:
    prompts, rows = [make_prompt(unet, 5)], layout([1], 2)
    both = text(2, seed=3)
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        injection.begin(rows, 0, 2)
        unet(x(1), torch.tensor([500.0]), context=both[:1])
        injection.begin(rows, 1, 2)
        after = unet(x(2), torch.full((2,), 500.0), context=both)
    assert close(after, row_by_row(unet, prompts, rows, [(x(2), both)]))


def test_each_picture_of_a_batch_has_its_own_reference(unet) -> None:
    from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues

    single = [make_prompt(unet, 5, embeds=draw(1, 32, seed=60 + i)) for i in range(2)]
    halves = [(p.kv.keys, p.kv.values) for p in single]
    kv = KeysValues(
        tuple(torch.cat([a[:1], b[:1], a[1:], b[1:]]) for a, b in zip(halves[0][0], halves[1][0], strict=True)),
        tuple(torch.cat([a[:1], b[:1], a[1:], b[1:]]) for a, b in zip(halves[0][1], halves[1][1], strict=True)),
    )
    assert kv.pictures == 2
    xs, texts = x(6), text(6, seed=70)
    together = outputs(unet, [ImagePrompt(kv)], layout([2, 2], 6), [(xs, texts)])
    for i, mine in enumerate([(0, 1, 4), (2, 3, 5)]):
        rows = (Row(True, 0), Row(True, 0), Row(False, 0))
        alone = outputs(unet, [single[i]], rows, [(xs[list(mine)], texts[list(mine)])])
        assert close(together[list(mine)], alone)
    shifted = outputs(unet, [ImagePrompt(kv, picture_offset=1)], layout([2, 2], 6), [(xs, texts)])
    assert not close(together, shifted, 1e-2)


def test_marked_contexts_decide_where_controlnet_has_replaced_the_forward(unet) -> None:
    """Its rows may come in any order; the first token says which are which."""
    rows = layout([1, 1], 4)
    cursor = RowCursor()
    cursor.begin(rows)
    context = text(4, seed=1)
    order = [False, True, True, False]
    context[:, 0] = torch.tensor([MARK if cond else -MARK for cond in order])[:, None]
    assert marks(context) == order
    assert cursor.take(4, context, marked=True) == (Row(False, 0), Row(True, 0), Row(True, 1), Row(False, 1))
    cursor.begin(rows)
    assert cursor.take(4, context, marked=False) == rows
    assert marks(text(2, seed=1)) is None


def test_replaced_forward_is_noticed(unet) -> None:
    """A replaced forward strips the mark and gets uncond rows first: they are still told apart."""
    prompts, rows = [make_prompt(unet, 5)], layout([1], 2)
    plain = text(2, seed=3)
    expected = row_by_row(unet, prompts, rows, [(x(2), plain)]).flip(0)
    original = unet.forward

    def forward(x, timesteps=None, context=None, **kwargs):
        return original(x, timesteps, context[:, 1:], **kwargs)

    flipped = torch.cat([torch.tensor([-MARK, MARK])[:, None, None].expand(2, 1, 768), plain.flip(0)], dim=1)
    unet.forward = forward
    try:
        ours = outputs(unet, prompts, rows, [(x(2).flip(0), flipped)])
    finally:
        del unet.forward
    assert close(ours, expected)


def test_tiles_are_told_apart_by_their_text() -> None:
    """A call with more rows than the step has: tiles, each with all rows, or only some of them."""
    cond, uncond = text(1, seed=1), text(1, seed=2)
    cursor = RowCursor()
    cursor.begin(layout([1], 2), lambda: (cond, uncond))
    tiles = torch.cat([cond, cond, cond, uncond, uncond, uncond])
    assert [row.cond for row in cursor.take(6, tiles)] == [True] * 3 + [False] * 3
    assert [row.cond for row in cursor.take(2, torch.cat([cond, uncond]))] == [True, False]
    assert [row.cond for row in cursor.take(1, uncond)] == [False]
    cursor.begin(layout([1], 2), lambda: (cond, cond))  # the same text on both sides tells nothing
    assert [row.cond for row in cursor.take(4, cond.repeat(4, 1, 1))] == [True, False, True, False]
    assert cursor.take(3, cond.repeat(3, 1, 1)) is None


ASKED = {  # name -> (prompts per picture, rows in all, rows asked for in one go with their calls of the UNet)
    "tiles one by one": ([1], 2, [(2, [2, 2, 2])]),
    "tiles together": ([1, 1], 4, [(4, [12, 8])]),
    "tiles of one side, as many as the step has rows": ([1], 2, [(1, [2, 2]), (1, [2, 2])]),
    "tiles of one side, one by one": ([1, 1], 4, [(2, [2, 2, 2]), (2, [2, 2, 2])]),
    "a region's own text, in two parts": ([2], 3, [(3, [6, 2, 1, 3, 2, 1])]),
    "a region's own text, one side": ([1], 2, [(1, [1, 1, 1]), (1, [1, 1, 1])]),
}


@pytest.mark.parametrize("pattern", ASKED)
def test_tiles_and_regions_are_parts_of_what_the_sampler_asks_for(pattern: str) -> None:
    """Their text tells nothing here: it is a region's own, or the same on both sides."""
    counts, n_rows, asked = ASKED[pattern]
    rows = layout(counts, n_rows)
    cursor, position, alone = RowCursor(), 0, []
    cursor.begin(rows)
    for n, calls in asked:
        own = rows[position : position + n]
        cursor.open(n)
        taken = [row for k in calls for row in cursor.take(k)]
        cursor.close()
        assert taken == [own[i % n] for i in range(len(taken))]
        position += n
        alone += own
    assert tuple(alone) == rows
    cursor.begin(rows)
    cursor.open(n_rows)
    assert cursor.take(n_rows + 1) is None
    cursor.open(1)  # more than there are: the sampler's, but nothing tells which
    assert cursor.asked is None


def test_a_sampler_is_followed_and_let_go(unet) -> None:
    sampler = torch.nn.Identity()
    prompts, rows, both = [make_prompt(unet, 5)], layout([1], 2), text(2, seed=3)
    expected = row_by_row(unet, prompts, rows, [(x(2), both)])
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        for asks in (sampler, torch.nn.Identity(), sampler):
            injection.begin(rows, 0, 1, sampler=asks)
            for i in range(2):  # each side alone, in two tiles of the same content
                handle = asks.register_forward_hook(
                    lambda *_, i=i: unet(x(2)[[i, i]], torch.full((2,), 500.0), context=both[[i, i]]), prepend=True
                )
                assert close(asks(x(2)[[i]]), expected[[i, i]])
                handle.remove()
    assert not sampler._forward_pre_hooks
    assert not sampler._forward_hooks


def test_prompts_that_were_put_into_another_order_keep_their_picture() -> None:
    latents = draw(2, 4, 8, 8, seed=1)
    order = [0, 1, 0, 1, 0, 1]  # of three AND prompts each; the host's own is 0, 0, 0, 1, 1, 1
    found = same_pictures(layout([3, 3], 8), latents[[*order, 0, 1]])
    assert found == (*(Row(True, i) for i in order), Row(False, 0), Row(False, 1))
    assert same_pictures(layout([3, 3], 8), latents[[0, 0, 0, 1, 1, 1, 0, 1]]) == layout([3, 3], 8)
    assert same_pictures(layout([3, 3], 8), latents[[0] * 8]) == layout([3, 3], 8)  # all alike: nothing to tell
    assert same_pictures(layout([1, 1], 4), latents[[1, 0, 0, 1]]) == layout([1, 1], 4)
    cursor = RowCursor()
    cursor.begin(layout([2, 2], 6), latents=lambda: latents[[0, 1, 0, 1, 0, 1]])
    cursor.open(4)
    assert [row.picture for row in cursor.take(4)] == [0, 1, 0, 1]


# Parts of a step in an order of their own: AnimateDiff's windows of frames


FRAMES, WINDOWS = 6, [[0, 1, 2, 3], [3, 4, 5, 0], [4, 5, 0, 1]]


def film(*, apart: bool = False, same_text: bool = False, scale: float = 0.3, dtype: torch.dtype = torch.float32):
    """The rows that a cursor gives for each window, its rules, and the rows that there are."""
    rows = layout([1] * FRAMES, 2 * FRAMES)
    latents = draw(FRAMES, 4, 8, 8, seed=1).repeat(2, 1, 1, 1)
    cond, uncond = text(1, seed=2).repeat(FRAMES, 1, 1), text(1, seed=2 if same_text else 3).repeat(FRAMES, 1, 1)
    texts = torch.cat([cond, uncond])
    cursor, given, true = RowCursor(), [], []
    cursor.begin(rows, lambda: (cond, uncond))
    for a in (0, FRAMES) if apart else (0,):
        n = FRAMES if apart else 2 * FRAMES
        cursor.open(n, latents[a : a + n])
        for window in WINDOWS:
            index = [a + i for i in window] + ([] if apart else [FRAMES + i for i in window])
            x = torch.cat([latents[index] * scale, draw(len(index), 5, 8, 8, seed=9)], 1).to(dtype)
            given.append((cursor.take(len(index), texts[index].to(dtype), x), cursor.rule))
            true.append(tuple(rows[i] for i in index))
        cursor.close()
    return given, true


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("apart", [False, True])
def test_windows_of_frames_are_told_by_text_and_latent(apart: bool, dtype: torch.dtype) -> None:
    given, true = film(apart=apart, dtype=dtype)
    assert [rows for rows, _ in given] == true
    assert {rule for _, rule in given} <= {RowRule.TEXT, RowRule.ORDER}


def test_windows_of_one_text_are_told_where_the_sampler_asks_for_one_side() -> None:
    given, true = film(apart=True, same_text=True)
    assert [rows for rows, _ in given] == true
    assert RowRule.LATENT in {rule for _, rule in given}


def test_windows_that_nothing_tells_are_not_guessed() -> None:
    given, _ = film(same_text=True)
    assert {rows for rows, _ in given} == {None}


def test_order_that_text_contradicts_is_not_believed() -> None:
    """One picture: the latents say nothing. Half of the rows, the unconditional ones first."""
    cond, uncond = text(1, seed=1), text(1, seed=2)
    cursor = RowCursor()
    for context, kinds in ((torch.cat([uncond, cond]), [False, True]), (uncond.repeat(2, 1, 1), [False, False])):
        cursor.begin(layout([1], 2), lambda: (cond, uncond))
        cursor.open(2, x(1).repeat(2, 1, 1, 1))
        assert [row.cond for row in cursor.take(2, context, x(1).repeat(2, 1, 1, 1))] == kinds
        assert cursor.rule is RowRule.TEXT


def test_a_text_is_known_when_the_host_has_padded_or_cut_it() -> None:
    cond, uncond = text(2, 154, seed=1), text(2, seed=2)
    padded = torch.cat([uncond, text(1, seed=3).repeat(2, 1, 1)], dim=1)
    assert kinds_by_text(torch.cat([cond, padded]), cond, uncond) == [True, True, False, False]
    assert kinds_by_text(torch.cat([cond, padded])[:, :77], cond, uncond) == [True, True, False, False]
    assert kinds_by_text(torch.cat([cond, padded]).half(), cond, uncond) == [True, True, False, False]
    twice = torch.cat([uncond, uncond], dim=1)  # "X BREAK X" against "X"
    assert kinds_by_text(torch.cat([twice, twice]), twice, uncond) == [True] * 4
    assert kinds_by_text(uncond, twice, uncond) == [False] * 2
    assert kinds_by_text(text(2, seed=4), cond, uncond) == [None, None]
    assert kinds_by_text(cond, cond, cond) == [None, None]


def test_a_latent_is_known_when_it_is_scaled_and_nothing_else() -> None:
    latents = draw(3, 4, 8, 8, seed=1)
    one, two, three = ({i} for i in range(3))
    assert pictures_by_latent(latents[[2, 0]] * 0.01, latents, [0, 1, 2]) == [three, one]
    assert pictures_by_latent(latents[[1]].bfloat16(), latents, [0, 1, 2]) == [two]
    assert pictures_by_latent(-latents[[1]], latents, [0, 1, 2]) == [None]
    assert pictures_by_latent(latents[[1]] + 0.1 * draw(1, 4, 8, 8, seed=2), latents, [0, 1, 2]) == [None]
    assert pictures_by_latent(latents[:, :, :4], latents, [0, 1, 2]) == [None] * 3  # a tile
    alike = latents[[0, 0, 1]]
    assert pictures_by_latent(alike[[0, 2]], alike, [0, 1, 2]) == [{0, 1}, three]
    close_by = latents[[0]] + 1e-4 * latents  # frames that differ by less than bf16 can hold
    assert pictures_by_latent(close_by[[1]], close_by, [0, 1, 2]) == [two]
    assert pictures_by_latent(torch.zeros(1, 4, 8, 8), torch.zeros(3, 4, 8, 8), [0, 1, 2]) == [{0, 1, 2}]


def test_calls_that_nothing_explains_stay_plain(unet) -> None:
    prompts = [make_prompt(unet, 5)]
    same = text(1, seed=1)
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        injection.begin(layout([1], 2), 0, 1, lambda: (same, same))
        three = unet(x(3), torch.full((3,), 500.0), context=same.repeat(3, 1, 1))
        assert injection.lost == 1
    assert torch.equal(three, unet(x(3), torch.full((3,), 500.0), context=same.repeat(3, 1, 1)))


def test_a_paused_injection_is_silent(unet) -> None:
    both = text(2, seed=3)
    plain = unet(x(2), torch.full((2,), 500.0), context=both)
    with Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]) as injection:
        injection.begin(layout([1], 2), 0, 1)
        injection.pause()
        assert torch.equal(unet(x(2), torch.full((2,), 500.0), context=both), plain)
