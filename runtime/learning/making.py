"""The files that ONNX Runtime learns from, made in a process of their own.

Deriving and optimising a graph takes several times what it weighs, and neither ONNX Runtime nor the C library hands all
of that back. Whoever trains opens the finished file, and has in memory what it runs.
"""

import os
from typing import Collection, List, Optional

from ..backends.training_graph import for_this_cpu
from ..bundle.bundle import Bundle
from ..errors import Da3Error
from ..onnx_graph.model import Model
from ..records import Path
from ..system import write_atomically
from .answers_graph import derive_answers
from .apart import done_apart
from .forced import derive_forced
from .observation import derive_observation
from .step_graph import derive_step

STEP, OBSERVATION, FORCED, ANSWERS = "step", "observation", "forced", "answers"

# What each is for, in words.
TITLES = {
    STEP: "a training step",
    OBSERVATION: "what is measured before the first step",
    FORCED: "what closing a block costs",
    ANSWERS: "the answers to validation photos",
}


def make_file(
    kind: str, bundle: Path, path: Path, classes: int, closed: Collection[int] = (), threads: Optional[int] = None
) -> None:
    """Write the graph of a STEP, of an OBSERVATION, one that is FORCED, or that of ANSWERS, of a domain with so many
    classes that closes these blocks, to `path`.

    It is to be opened with `open_session(path, as_written=True)` on this machine. bundle: its path. Raises BackendError
    with what the process that makes it says.
    """
    words = [
        kind,
        os.fspath(bundle),
        os.fspath(path),
        str(classes),
        ",".join(map(str, sorted(closed))),
        str(threads or 0),
    ]
    done_apart(__name__, words, "the graph: %s" % TITLES[kind])


def derive(kind: str, bundle: Bundle, classes: int, closed: Collection[int], small: bool = False) -> Model:
    """The graph, see `make_file`. small: see `derive_step`.

    Raises BundleError if a file is damaged, or has an operator that is not known.
    """
    if kind == STEP:
        return derive_step(bundle, classes, closed, small).model
    if kind == ANSWERS:
        return derive_answers(bundle, classes, closed)
    return derive_forced(bundle, classes) if kind == FORCED else derive_observation(bundle)


def main(words: List[str]) -> int:
    """What the other process does; its exit status."""
    kind, bundle, path, classes, closed, threads = words
    blocks = [int(number) for number in closed.split(",") if number]
    try:
        with Bundle(bundle) as opened:
            model = derive(kind, opened, int(classes), blocks, small=True)
        write_atomically(path, for_this_cpu(model, int(threads) or None, spend=True))
    except (Da3Error, OSError, MemoryError) as error:
        print(str(error) or type(error).__name__)
        return 1
    return 0
