"""The process that finds and recognises faces, with insightface and onnxruntime.

It is started by ``process``, as a script: it imports the standard library, numpy and these two alone, from the folders
that it is given. Each request is a line with a JSON object, followed by as many bytes of pixels as its "bytes" says;
each line of the answers is a JSON object. It reaches no network: insightface is given files that are there.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from typing import Any, BinaryIO

# The CPU alone: a face takes it some tenths of a second, once, while a card's context and arenas would take a gigabyte
# from the model for as long as this process lives, on whichever card onnxruntime thinks the first one.
PROVIDERS = ["CPUExecutionProvider"]
PACKAGES = ("onnxruntime", "insightface")
KEPT = 4  # networks in memory: both packs'
DATA_LIMIT = 64 * 2**20  # bytes of one request's pixels
CROP_SIDE = 112  # pixels that recognition is shown


class Refused(Exception):
    """A request that cannot be answered; the text says why. ``failed``: by an error of the packages, whose own fault it
    may be."""

    def __init__(self, why: str, file: str, *, failed: bool = False) -> None:
        super().__init__(why)
        self.file, self.failed = file, failed


class Networks:
    """The networks in memory."""

    def __init__(self) -> None:
        self._get_model = importlib.import_module("insightface.model_zoo").get_model
        self._loaded: dict[str, tuple[Any, Any]] = {}  # by path: the file's version, and its network

    def run(self, request: dict[str, Any], task: str, work: Any) -> Any:
        """What ``work`` makes of the network in the request's "file", of its "version". Raises Refused."""
        file = request["file"]
        try:
            return work(self._network(file, request["version"], task))
        except Refused:
            raise
        except Exception as error:
            raise Refused(last_line(error), file, failed=True) from error

    def _network(self, file: str, version: Any, task: str) -> Any:
        loaded, network = self._loaded.pop(file, (None, None))
        if network is None or loaded != version:  # the file may have been replaced
            network = self._get_model(file, providers=PROVIDERS)
            if getattr(network, "taskname", None) != task:
                raise Refused(f"it is no network for {task}", file)
        self._loaded[file] = version, network
        while len(self._loaded) > KEPT:
            self._loaded.pop(next(iter(self._loaded)))
        return network


def detect(networks: Networks, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The faces in an RGB picture of "width" times "height" pixels, shown to the network in a square of "size"."""
    import numpy

    picture = numpy.frombuffer(data, numpy.uint8).reshape(request["height"], request["width"], 3)
    picture = numpy.ascontiguousarray(picture[:, :, ::-1])  # insightface takes BGR

    def work(network: Any) -> Any:
        network.det_thresh = request["threshold"]
        side = network.session.get_inputs()[0].shape[2]
        side = side if isinstance(side, int) and side > 0 else request["size"]  # some files are for one size only
        return network.detect(picture, input_size=(side, side))

    boxes, landmarks = networks.run(request, "detection", work)
    if landmarks is None:
        raise Refused("it finds no landmarks", request["file"])
    faces = [
        {"box": box[:4], "score": box[4], "landmarks": points}
        for box, points in zip(boxes.tolist(), landmarks.tolist())  # noqa: B905 (of one length)
    ]
    return {"faces": faces}


def recognise(networks: Networks, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The embeddings of aligned RGB crops, one behind the other."""
    import numpy

    crops = numpy.frombuffer(data, numpy.uint8).reshape(-1, CROP_SIDE, CROP_SIDE, 3)
    crops = numpy.ascontiguousarray(crops[:, :, :, ::-1])

    def work(network: Any) -> list[Any]:
        return [network.get_feat(crop).flatten().tolist() for crop in crops]

    return {"embeddings": networks.run(request, "recognition", work)}


WORK = {"detect": detect, "recognise": recognise}


def answer(networks: Networks, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    try:
        return WORK[request["work"]](networks, request, data)
    except Refused as refused:
        return {"problem": str(refused), "file": refused.file, "failed": refused.failed}


def last_line(error: BaseException) -> str:
    """An error in one line, as Python's own last line has it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def beginning() -> dict[str, Any]:
    """What the packages are: their versions, or which are missing, or why one that is there cannot be imported."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:  # insightface alone would complain about onnxruntime in its own words
        return {"missing": missing}
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except BaseException as error:  # a package may do anything at its import
            return {"broken": package, "why": last_line(error)}
    return {"versions": {package: getattr(sys.modules[package], "__version__", "") for package in PACKAGES}}


def own_output() -> BinaryIO:
    """Where answers go. What anybody else prints goes where errors go."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answer until nobody asks any more."""
    answers = own_output()
    sys.path[:0] = json.loads(sys.argv[1])

    def say(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what, separators=(",", ":")).encode() + b"\n")
        answers.flush()

    begun = beginning()
    networks = None
    if "versions" in begun:
        try:
            networks = Networks()
        except BaseException as error:
            begun = {"broken": "insightface", "why": last_line(error)}
    say(begun)
    if networks is None:
        return
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line)
        if not 0 <= request["bytes"] <= DATA_LIMIT:
            return
        data = sys.stdin.buffer.read(request["bytes"])
        if len(data) < request["bytes"]:
            return
        say(answer(networks, request, data))


if __name__ == "__main__":
    main()
