"""Derived graphs made ready for ONNX Runtime in a process of their own, whose memory is gone when training begins.

To derive and optimise the step of a MobileNetV2 takes more memory than to run it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, NamedTuple, Tuple

from ..backends.sessions import has_pool, use_exact_arena
from ..backends.training_graph import for_this_cpu
from ..bundle.bundle import Bundle
from ..errors import BackendError, Da3Error
from ..onnx_graph.model import Model
from ..onnx_graph.writing import write_model
from .forced import derive_forced
from .step_graph import derive_observation, derive_step

_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from da3.runtime.learning.making import main; main()"


class Asked(NamedTuple):
    """A graph: kind is one of KINDS. closed: blocks that the domain closes."""

    kind: str
    classes: int
    closed: Tuple[int, ...] = ()

    def derive(self, bundle: Bundle) -> Model:
        """Raises BundleError if a file is damaged, or has an operator that is not known."""
        return KINDS[self.kind](bundle, self)

    @property
    def often(self) -> bool:
        """Whether it is run so often that it is worth a second or two to make it faster."""
        return self.kind == "step"


KINDS: Dict[str, Callable[[Bundle, Asked], Model]] = {
    "observation": lambda bundle, asked: derive_observation(bundle, asked.closed),
    "step": lambda bundle, asked: derive_step(bundle, asked.classes, asked.closed).model,
    "forced": lambda bundle, asked: derive_forced(bundle, asked.classes),
}


def made_here(bundle: Bundle, asked: Asked) -> bytes:
    """The graph's ONNX file, to be opened as written where it is wanted `often`."""
    model = asked.derive(bundle)
    if not asked.often:
        return write_model(model)
    use_exact_arena()
    # One thread is enough to optimise with, and does not make the process's pool.
    return for_this_cpu(model, None if has_pool() else 1)


class MadeApart:
    """The same files, made in another process each: of every kind the last that was asked for, until it is closed."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="da3-graphs-")
        self._made: Dict[str, Asked] = {}

    def path(self, bundle: Bundle, asked: Asked) -> str:
        """Raises BackendError with what went wrong there."""
        path = os.path.join(self._folder, "%s.onnx" % asked.kind)
        if self._made.get(asked.kind) != asked:
            self._made.pop(asked.kind, None)
            self._make(dict(asked._asdict(), bundle=os.path.abspath(bundle.path), path=path))
            self._made[asked.kind] = asked
        return path

    def _make(self, job: Dict[str, Any]) -> None:
        words = [sys.executable, "-c", _CODE, json.dumps([os.path.abspath(p) for p in sys.path]), json.dumps(job)]
        # In a session of its own, so that Ctrl-C reaches this process alone, which then stops in good order.
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        _, errors = child.communicate()
        if child.returncode:
            said = errors.decode("utf-8", "replace").strip().split("\n")
            raise BackendError(said[-1][:500] or "making a graph ended with code %d" % child.returncode)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> None:
    """The other process."""
    job = json.loads(sys.argv[2])
    path, place = job.pop("path"), job.pop("bundle")
    try:
        with Bundle(place) as bundle:
            data = made_here(bundle, Asked(job["kind"], job["classes"], tuple(job["closed"])))
        with open(path, "wb") as file:
            file.write(data)
    except (Da3Error, OSError, MemoryError) as error:
        sys.exit(str(error) or "not enough memory to make a graph: close other programs")
