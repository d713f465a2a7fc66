"""Engines of single graphs with fixed shapes, such as a training step's: built when they are needed, and found again.

FOLDER/<name>-<key>.plan      a line of JSON, then the plan as TensorRT gives it

The key is a hash of the graph's bytes, of the precision and of the device: what a plan depends on. Of each name the
plans that were used last are kept. The timing cache is that of the folder above, which `da3 build` has too.
"""

import hashlib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..bundle.jsonfile import read_json
from ..cuda.interface import Cuda
from ..errors import BackendError
from ..system.atomic import write_atomically
from ..system.regular import open_regular
from .api import Library
from .builder import Builder, Recipe, default_workspace
from .formats import LINEAR
from .store import Device
from .timing import read_timing, timing_file, write_timing

_MAKING = 1  # to be raised when the same graph gives another plan than before
_KEPT = 4  # plans of a name: another one is built for each number of classes and each set of closed blocks
_END = ".plan"
_HEAD_LIMIT = 1 << 20  # bytes of the line before a plan


class End(NamedTuple):
    """An input or output, float32. rows: how many rows of its first dimension each example of the batch has; 0 where it
    has none of its own."""

    name: str
    shape: Tuple[int, ...]
    rows: int


class Graph(NamedTuple):
    """A graph to build. name: as in file names; title: in messages; data: the ONNX file, whose shapes are fixed; half:
    may TensorRT compute in float16, or is the graph written so?"""

    name: str
    title: str
    data: bytes
    half: bool
    inputs: Tuple[End, ...]
    outputs: Tuple[End, ...]


class GraphPlan(NamedTuple):
    """A plan as it was built. data: TensorRT's bytes."""

    data: bytes
    inputs: Tuple[End, ...]
    outputs: Tuple[End, ...]


def plan_path(folder: str, graph: Graph, device: Device) -> str:
    """Where the plan of a graph lies once it is built."""
    made_of = [_MAKING, hashlib.sha256(graph.data).hexdigest(), graph.half, list(device)]
    key = hashlib.sha256(json.dumps(made_of).encode("utf-8")).hexdigest()
    return os.path.join(folder, "%s-%s%s" % (graph.name, key[:24], _END))


def has_plan(path: str) -> bool:
    """Is a whole plan there? It counts as used then."""
    try:
        read_graph_plan(path)
        os.utime(path, None)
    except (BackendError, OSError):
        return False
    return True


def build_plan(path: str, graph: Graph, cuda: Cuda, library: Library) -> None:
    """Build a graph's engine and write its plan, see `plan_path`. Raises BackendError."""
    folder = os.path.dirname(path)
    timing = timing_file(os.path.dirname(folder), Device(library.version, cuda.gpu.name, cuda.gpu.sm))
    recipe = Recipe(
        name=graph.title,
        profiles={},
        layouts={end.name: LINEAR for end in graph.inputs + graph.outputs},
        half=graph.half,
        int8=False,
        workspace=0,
    )
    with cuda.current():
        recipe = recipe._replace(workspace=default_workspace(cuda))
        builder = Builder(library, read_timing(timing))
        plan = builder.leanest(graph.data, recipe)
    head = {
        "sha256": hashlib.sha256(plan).hexdigest(),
        "inputs": [list(end) for end in graph.inputs],
        "outputs": [list(end) for end in graph.outputs],
    }
    try:
        write_atomically(path, json.dumps(head).encode("utf-8") + b"\n" + plan)
        write_timing(timing, builder.timing)
        _tidy(folder, graph.name)
    except OSError as error:
        raise BackendError("an engine cannot be written (%s): make room on the disk" % error)


def read_graph_plan(path: str) -> GraphPlan:
    """A plan as it was written. Raises BackendError where it is not."""
    try:
        with open_regular(path) as file:
            head, data = read_json(file.readline(_HEAD_LIMIT)), file.read()
        if hashlib.sha256(data).hexdigest() != head["sha256"]:
            raise ValueError("wrong sha256")
        inputs, outputs = (tuple(_end(entry) for entry in head[key]) for key in ("inputs", "outputs"))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise BackendError("%s is not the engine that was built (%s): delete it, and it is built again" % (path, error))
    return GraphPlan(data, inputs, outputs)


def _end(entry: List[Any]) -> End:
    name, shape, rows = entry
    return End(str(name), tuple(int(n) for n in shape), int(rows))


def _tidy(folder: str, name: str) -> None:
    """Remove all plans of a name but those that were used last. What another run removes meanwhile is gone already."""
    used: Dict[str, float] = {}
    for file in os.listdir(folder):
        if file.startswith(name + "-") and file.endswith(_END):
            time = _used_at(os.path.join(folder, file))
            if time is not None:
                used[file] = time
    for file in sorted(used, key=lambda file: -used[file])[_KEPT:]:
        try:
            os.remove(os.path.join(folder, file))
        except OSError:
            pass


def _used_at(path: str) -> Optional[float]:
    try:
        return os.path.getmtime(path)
    except OSError:
        return None
