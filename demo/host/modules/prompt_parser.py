"""Prompts: ``a AND b :0.5``, ``(word:1.2)``, ``[less]``, ``BREAK`` and, unnested, ``[from:to:when]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from modules.util import record


class ScheduledPromptConditioning(NamedTuple):
    end_at_step: int
    cond: Any


class SdConditioning(list):
    """Prompts together with what SDXL's text conditioning also wants to know."""

    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        model = vars(copy_from) if isinstance(copy_from, SdConditioning) else {}
        self.is_negative_prompt = is_negative_prompt or model.get("is_negative_prompt", False)
        self.width, self.height = width or model.get("width"), height or model.get("height")


ComposableScheduledPromptConditioning = record("ComposableScheduledPromptConditioning", "schedules", weight=1.0)
MulticondLearnedConditioning = record("MulticondLearnedConditioning", "shape batch")


@dataclass
class _Edit:
    """One [before:after:when] of a prompt: shows ``before`` up to step ``end``, then ``after``."""

    before: str
    after: str
    end: int

    PATTERN = re.compile(r"\[(?:([^][:]*):)?([^][:]*):\s*(\d*\.?\d+)\s*\]")

    @classmethod
    def of(cls, match, steps):
        end = float(match[3]) * (steps if "." in match[3] else 1)
        return cls(match[1] or "", match[2], min(int(end), steps))


def get_learned_conditioning_prompt_schedules(prompts, base_steps, hires_steps=None, use_old_scheduling=False):
    """For each prompt its texts in time, as (last step, text)."""
    steps = hires_steps or base_steps

    def text_at(step, prompt):
        def shown(match):
            edit = _Edit.of(match, steps)
            return edit.before if step <= edit.end else edit.after

        return _Edit.PATTERN.sub(shown, prompt)

    def ends(prompt):
        return sorted({_Edit.of(match, steps).end for match in _Edit.PATTERN.finditer(prompt)} - {0} | {steps})

    return [[(end, text_at(end, prompt)) for end in ends(prompt)] for prompt in prompts]


def get_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    """For each prompt its conditionings in time. Equal prompts are encoded once."""
    schedules = get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps, use_old_scheduling)

    def encode(schedule):
        ends, texts = zip(*schedule, strict=True)
        conds = model.get_learned_conditioning(SdConditioning(texts, copy_from=prompts))
        return [ScheduledPromptConditioning(end, _pick(conds, i)) for i, end in enumerate(ends)]

    known = {prompt: encode(schedule) for prompt, schedule in dict(zip(prompts, schedules, strict=True)).items()}
    return [known[prompt] for prompt in prompts]


def _pick(conds, row):
    return {key: value[row] for key, value in conds.items()} if isinstance(conds, dict) else conds[row]


def _parts(prompt):
    """The texts that AND joins, with their weights."""
    for part in re.split(r"\bAND\b", prompt):
        text, weight = re.fullmatch(r"(.*?)(?:\s*:\s*([-+]?\d*\.?\d+))?\s*", part, re.S).groups()
        yield text, float(weight or 1)


def get_multicond_prompt_list(prompts):
    """(index, weight) pairs for each prompt, the distinct texts that the indexes mean, and {text: index}."""
    index: dict[str, int] = {}
    pairs = [[(index.setdefault(text, len(index)), weight) for text, weight in _parts(prompt)] for prompt in prompts]
    return pairs, SdConditioning(index, copy_from=prompts), index


def get_multicond_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    pairs, texts, _ = get_multicond_prompt_list(prompts)
    conds = get_learned_conditioning(model, texts, steps, hires_steps, use_old_scheduling)
    batch = [[ComposableScheduledPromptConditioning(conds[i], weight) for i, weight in row] for row in pairs]
    return MulticondLearnedConditioning((len(prompts),), batch)


class DictWithShape(dict):
    """SDXL's conditioning, which is asked for the shape of its text part as if it were a tensor."""

    @property
    def shape(self):
        return self["crossattn"].shape


def _at_step(schedules, step):
    return next((entry.cond for entry in schedules if entry.end_at_step >= step), schedules[0].cond)


def _stack(conds):
    """One batch; shorter texts repeat their last vector."""
    if isinstance(conds[0], dict):
        return DictWithShape({key: _stack([cond[key] for cond in conds]) for key in conds[0]})
    if conds[0].ndim < 2:
        return torch.stack(conds)
    longest = max(map(len, conds))
    return torch.stack([cond[torch.arange(longest).clamp(max=len(cond) - 1)] for cond in conds])


def reconstruct_cond_batch(c, current_step):
    return _stack([_at_step(schedules, current_step) for schedules in c])


def reconstruct_multicond_batch(c, current_step):
    """For each picture its (row, weight) pairs, and the rows."""
    prompts = [prompt for row in c.batch for prompt in row]
    rows = iter(range(len(prompts)))
    pairs = [[(next(rows), prompt.weight) for prompt in row] for row in c.batch]
    return pairs, _stack([_at_step(prompt.schedules, current_step) for prompt in prompts])


_MARKS = re.compile(r"\\[][()\\]|[][(]|:\s*[-+]?\d*\.?\d+\s*\)|\)|\s*\bBREAK\b\s*")
_BRACKETS = {"(": 1.1, "[": 1 / 1.1}


def parse_prompt_attention(text):
    """Text pieces with their weights; BREAK comes as ["BREAK", -1]."""
    pieces: list[list] = []
    opened: list[tuple[str, int]] = []  # bracket, and the piece that it stands before

    def close(bracket, factor):
        """Weigh everything since the last open ``bracket``; False if there is none."""
        place = next((i for i, (open_one, _) in reversed(list(enumerate(opened))) if open_one == bracket), None)
        if place is None:
            return False
        for piece in pieces[opened[place][1] :]:
            piece[1] *= factor
        del opened[place]
        return True

    at = 0
    for mark in [*_MARKS.finditer(text), None]:
        between, sign = text[at : mark.start()] if mark else text[at:], mark[0] if mark else ""
        at = mark.end() if mark else at
        if between:
            pieces.append([between, 1.0])
        if sign in _BRACKETS:
            opened.append((sign, len(pieces)))
        elif sign.strip() == "BREAK":
            pieces += [["", 1.0]] if pieces and sign != "BREAK" else []
            pieces.append(["BREAK", -1])
        elif sign.startswith("\\"):
            pieces.append([sign[1], 1.0])
        elif sign.endswith((")", "]")):
            bracket = "(" if sign[-1] == ")" else "["
            factor = float(sign[1:-1]) if sign[0] == ":" else _BRACKETS[bracket]
            if not close(bracket, factor):
                pieces.append([sign, 1.0])
    while opened:  # brackets that nobody closed
        close(opened[-1][0], _BRACKETS[opened[-1][0]])
    joined: list[list] = []
    for words, weight in pieces or [["", 1.0]]:
        if joined and joined[-1][1] == weight:
            joined[-1][0] += words
        else:
            joined.append([words, weight])
    return joined
