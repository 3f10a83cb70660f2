"""The command."""

from __future__ import annotations

import argparse
import io
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import Trouble
from ..webui import AUTH, Session, WebUI, without_password
from . import __doc__ as about
from . import drawn, figures, report
from .made import Kept, Settings, load, make
from .plan import CONTROLNET, OURS, RANGES, Plan, equal, references, scenes
from .scores import WHOLE, Clip

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def _weights(text: str) -> tuple[float, ...]:
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0,0.5,1") from None
    if not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"{text!r} holds a number that is not finite")
    return found


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512x512")
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return found


def _seconds(text: str) -> float:
    found = _number(text)
    if found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0 seconds")
    return found


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likeness", description=about, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"A password for --api-auth stands in the environment, as {AUTH}=user:password.",
    )  # fmt: skip
    add = parser.add_argument
    add("--webui", required=True, metavar="URL", help="address of a WebUI that runs with --api")
    add("--references", required=True, type=Path, metavar="FOLDER", help="folder with the reference pictures")
    add("--prompts", required=True, type=Path, metavar="FILE", help="text file, one prompt a line")
    add("--clip", type=Path, metavar="FILE", help="a whole CLIP model, in transformers' or open_clip's layout")
    add("--activation", choices=("gelu", "quick_gelu"), help="of a CLIP model whose sizes and name do not tell it")
    add("--adapter", metavar="NAME", help="as GET /ip-adapter/models lists it; the only one, if there is one")
    add("--against", choices=("controlnet",), help="do the same through sd-webui-controlnet's units, seed by seed")
    add("--controlnet-model", metavar="NAME", help="its name there, if not the adapter's")
    add(
        "--controlnet-module",
        metavar="NAME",
        help="the one for the adapter's encoder: ip-adapter_clip_sd15 (ViT-H) or ip-adapter_clip_sdxl (bigG)",
    )
    add("--weights", type=_weights, default=WEIGHTS, metavar="LIST", help="0,0.25,0.5,0.75,1,1.25,1.5")
    add("--seeds", type=_count, default=4, metavar="N", help="pictures for each reference, prompt and weight (4)")
    add("--first-seed", type=int, default=1, metavar="SEED", help="the others follow it (1)")
    add("--image-alone", action="store_true", help="send an empty prompt, as the paper does; CLIP-T takes the lines")
    add("--steps", type=_count, default=50, help="sampling steps (50)")
    add("--size", type=_size, default=(512, 512), metavar="WxH", help="of the pictures (512x512)")
    add("--sampler", default="DDIM", help="by its name in the WebUI (DDIM)")
    add("--guidance", type=_number, default=7.5, help="CFG scale (7.5)")
    add("--negative", default="", metavar="TEXT", help="negative prompt (none)")
    add("--out", type=Path, default=Path("likeness"), metavar="FOLDER", help="pictures and results (likeness)")
    add("--device", default="cpu", help="where CLIP runs: cpu, cuda, … (cpu: the card is the WebUI's)")
    add("--timeout", type=_seconds, default=900.0, metavar="SECONDS", help="for one picture (900)")
    return parser


def _checked(chosen: argparse.Namespace) -> Plan:
    """What is to be made. Raises Trouble."""
    methods = (OURS, CONTROLNET) if chosen.against else (OURS,)
    for method in methods:
        low, high = RANGES[method]
        if wrong := [weight for weight in chosen.weights if not low <= weight <= high]:
            raise Trouble(f"--weights holds {wrong[0]:g}, and {method} takes {low:g} to {high:g}.")
    if chosen.first_seed < 0:
        raise Trouble("--first-seed is at least 0: -1 would be another seed each time.")
    there = references(chosen.references)
    for name, kept in equal(there).items():
        if name != kept.name:
            tell(f"{name} is the same file as {kept.name}, and counts once")
    found = scenes(there, chosen.prompts, image_alone=chosen.image_alone)
    seeds = tuple(range(chosen.first_seed, chosen.first_seed + chosen.seeds))
    return Plan(tuple(found), seeds, chosen.weights, methods)


def run(chosen: argparse.Namespace, session: Session | None = None) -> None:
    if chosen.clip is None:
        raise Trouble(f"{WHOLE}: CLIP-I and CLIP-T cannot be told without it.")
    plan = _checked(chosen)
    clip = Clip.open(chosen.clip, chosen.device, chosen.activation)
    advice = ", or as long as --timeout says. What was made stays, and the same command goes on from there"
    webui = WebUI(chosen.webui, session, chosen.timeout, advice)
    adapter = webui.adapter(chosen.adapter)
    controlnet = None
    if chosen.against:
        controlnet = webui.controlnet(adapter, chosen.controlnet_model, chosen.controlnet_module, True)
    width, height = chosen.size
    settings = Settings(
        chosen.steps, width, height, chosen.sampler, chosen.guidance, chosen.negative, webui.checkpoint(), adapter,
        controlnet, webui.chosen(),
    )  # fmt: skip
    kept = Kept(chosen.out)
    measuring = figures.Measuring(plan, settings, kept, clip)  # first: what is no picture is told before any is made
    if settings.chosen["hash"] is None:  # the WebUI tells it when it has loaded the checkpoint once
        load(webui, settings, plan)
        settings = measuring.settings = replace(settings, chosen=webui.chosen())
    make(webui, plan, settings, kept, tell)
    write(chosen, measuring, measuring.scores(tell))


def write(chosen: argparse.Namespace, measuring: figures.Measuring, scores: Sequence[figures.Score]) -> None:
    """Everything into the output folder."""
    plan, settings, kept, out = measuring.plan, measuring.settings, measuring.kept, chosen.out
    rows = figures.rows(plan, scores)
    compared = figures.against(plan, scores, *plan.methods) if chosen.against else []
    versions = {kept.notes[settings.key(cell)].get("version", "") for cell in plan.cells()}
    text = report.document(
        plan, settings, rows, compared, clip=measuring.clip.name, version=" and ".join(sorted(filter(None, versions))),
        image_alone=chosen.image_alone, shortened=len(measuring.shortened), wordless=measuring.wordless,
        command=chosen.command,
    )  # fmt: skip
    (out / "likeness.md").write_text(text, "utf-8")
    report.write_csv(out / "likeness.csv", rows, compared, plan.methods)
    report.write_scores(out / "scores.csv", scores)
    print(text)
    written = ["likeness.md", "likeness.csv", "scores.csv"]
    try:
        drawn.plot(rows, out / "likeness.png")
        written.append("likeness.png")
        drawn.sheet(plan, settings, kept, scores).save(out / "contact-sheet.png")
        written.append("contact-sheet.png")
    except ImportError:
        tell(
            "matplotlib is not installed, so there is neither plot nor contact sheet: python -m pip install matplotlib"
        )
    tell(f"in {out}: {', '.join(written)}")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _joined(arguments: Sequence[str]) -> list[str]:
    """A list of weights that begins with a negative one, which argparse takes for an option, goes to its option."""
    made: list[str] = []
    for text in arguments:
        if made and made[-1] == "--weights" and re.match(r"-[0-9.]", text):
            made[-1] += f"={text}"
        else:
            made.append(text)
    return made


def main(arguments: Sequence[str] | None = None, session: Session | None = None) -> int:
    """Exit code 0 with everything written, 2 with a sentence, 130 when it was stopped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a console's code page lacks letters of names and prompts
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = options().parse_args(_joined(given))
    told = (text.replace(chosen.webui, without_password(chosen.webui)) for text in given)
    chosen.command = shlex.join(["python", "-m", "benchmarks.likeness", *told])
    try:
        run(chosen, session)
    except Trouble as error:
        tell(str(error))
        return 2
    except OSError as error:
        tell(f"{error}: name another file or folder, or make room; what was made stays.")
        return 2
    except KeyboardInterrupt:
        tell("Stopped; what was made stays, and the same command goes on from there.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
