"""What ONNX Runtime made of a bundle's subgraphs, stored so that the next start need not make it again.

    BUNDLE/engines/onnxruntime-<version>-<key>/index.json   what was stored, and what it was made of
    BUNDLE/engines/onnxruntime-<version>-<key>/*.onnx       the optimised graph of each subgraph

To make these graphs takes longer than all the rest of a start. The key is a hash of everything that they depend on, so
a bundle that changed or came from another machine has none for this key, and they are made again. They are also made
again where a stored file is missing or damaged. Where nothing can be written, every start makes them.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ..bundle.bundle import Bundle
from ..bundle.jsonfile import read_json
from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, IMAGE
from ..onnx_graph.subgraphs import subgraph_identity
from ..records import Shape
from ..schedule.layout import Layout, Subgraph
from ..system.exchanging import exchange
from ..system.regular import open_regular
from ..system.scratch import scratch_folder

_MAKING = 2  # to be raised when da3 makes other graphs of the same files than before
_FORMAT = 1  # of the index
_INDEX = "index.json"
_WIDEST_BLOCK = 64  # channels; ONNX Runtime has 8 or 16, by the CPU
_LIMIT = 16 * 1024 * 1024
_PREFIX = "onnxruntime-"
_WRITING = ".writing-"
_MOST = 12  # folders in one bundle: of domains that close different blocks, of several machines in turn
_ABANDONED_S = 3600.0  # a folder that has been in writing for so long belongs to a process that was ended


class StoredGraphs(NamedTuple):
    """paths: of an ONNX file for each subgraph, to be loaded without further optimising. shapes: of every value between
    subgraphs as it lies in its buffer, for one image; names of free dimensions stay."""

    paths: List[str]
    shapes: Dict[str, Shape]


class GraphStore:
    """The place for a bundle's graphs of one layout, as this ONNX Runtime makes them on this CPU."""

    def __init__(self, folder: str, name: str, made_of: Any, count: int) -> None:
        """folder: the bundle's `engines`; name: of the folder in it; made_of: what the graphs depend on, as read from
        JSON; count: how many graphs there are."""
        self._folder = folder
        self._place = os.path.join(folder, name)
        self._made_of = made_of
        self._names = ["subgraph_%02d.onnx" % number for number in range(count)]

    def read(self) -> Optional[StoredGraphs]:
        """The graphs, verified to be as they were written; None where there are none, or something is wrong."""
        try:
            index = read_json(self._read(_INDEX, _LIMIT), _LIMIT)
            content = index["content"]
            if index["sha256"] != _digest(content) or content["format"] != _FORMAT:
                return None
            if content["made_of"] != self._made_of:
                return None
            for name, entry in zip(self._names, content["files"]):
                if hashlib.sha256(self._read(name, entry["bytes"])).hexdigest() != entry["sha256"]:
                    return None
            paths = [os.path.join(self._place, name) for name in self._names]
            shapes = {name: tuple(shape) for name, shape in content["shapes"].items()}
            return StoredGraphs(paths, shapes) if _could_lie_so(shapes, self._made_of["values"]) else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, files: Sequence[bytes], shapes: Dict[str, Shape]) -> None:
        """Store graphs in place of what is there; nothing happens where they cannot be written."""
        try:
            os.makedirs(self._folder, exist_ok=True)
            with scratch_folder(self._folder, _WRITING + _PREFIX) as scratch:
                fresh = os.path.join(scratch, os.path.basename(self._place))
                os.mkdir(fresh)
                self._fill(fresh, files, shapes)
                if os.path.lexists(self._place) and not exchange(fresh, self._place):
                    shutil.rmtree(self._place, ignore_errors=True)
                if not os.path.lexists(self._place):
                    # This fails where another process was faster, whose graphs are as good.
                    os.rename(fresh, self._place)
            _remove_old(self._folder)
        except OSError:
            pass

    def _fill(self, folder: str, files: Sequence[bytes], shapes: Dict[str, Shape]) -> None:
        """Write the files, then the index. None is synced to the disk: a power cut may leave them incomplete, which
        their hashes show."""
        entries: List[Dict[str, Any]] = []
        for name, data in zip(self._names, files):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
            entries.append({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        content = {"format": _FORMAT, "made_of": self._made_of, "files": entries, "shapes": shapes}
        with open(os.path.join(folder, _INDEX), "wb") as file:
            file.write(json.dumps({"sha256": _digest(content), "content": content}).encode("utf-8"))

    def _read(self, name: str, limit: int) -> bytes:
        """The bytes of a file, of which `limit` are expected at most: of a larger one, one more."""
        with open_regular(os.path.join(self._place, name)) as file:
            return file.read(limit + 1)


def find_store(bundle: Bundle, layout: Layout, subgraphs: Sequence[Subgraph], ort: Any) -> Optional[GraphStore]:
    """Where the float32 graphs of these subgraphs are stored; None where the bundle or the system does not allow it.

    ort: the module onnxruntime.
    """
    cpu = _cpu()
    folder = os.path.join(bundle.path, "engines")
    # A link could lead anywhere, and what is old there is deleted.
    if not (bundle.may_store and layout.lasting) or cpu is None or os.path.islink(folder):
        return None
    content = {
        "making": _MAKING,
        "onnxruntime": _build(ort),
        "cpu": cpu,
        "values": layout.values,
        "gates": layout.gates,
        # The names by which values are handed on as well: a single step's identity does not have them.
        "subgraphs": [[subgraph_identity(s, bundle.manifest, "fp32"), s.inputs, s.outputs] for s in subgraphs],
    }
    name = "%s%s-%s" % (_PREFIX, ort.__version__, _digest(content)[:16])
    made_of = json.loads(json.dumps(content))  # with lists for tuples, as the index will give it
    return GraphStore(folder, name, made_of, len(subgraphs))


def source_files(subgraphs: Sequence[Subgraph], manifest: Manifest) -> List[str]:
    """Sorted names of the bundle's files that the subgraphs are made of."""
    return sorted({manifest.segments[step.segment].file for subgraph in subgraphs for step in subgraph.steps})


def _could_lie_so(shapes: Dict[str, Shape], values: Dict[str, Shape]) -> bool:
    """Are these the values of the layout, each for one image in its own shape, or with channels that fill up a block?

    Buffers are made by them, so they are not believed, though a hash in the same folder fits.
    """
    if set(shapes) != set(values):
        return False
    for name, plain in values.items():
        shape, wanted = shapes[name], tuple(1 if n == BATCH else n for n in plain)
        if [type(n) for n in shape] != [type(n) for n in wanted]:
            return False
        if len(shape) == 4 and name != IMAGE and wanted[1] < shape[1] < wanted[1] + _WIDEST_BLOCK:  # type: ignore
            shape = shape[:1] + wanted[1:2] + shape[2:]
        if shape != wanted:
            return False
    return True


def _build(ort: Any) -> List[str]:
    """Which ONNX Runtime this is; builds of one release can differ."""
    return [str(ort.__version__), str(ort.get_build_info()) if hasattr(ort, "get_build_info") else ""]


def _cpu() -> Optional[List[str]]:
    """What ONNX Runtime chooses its kernels by, and so the width of a block; None where the system does not tell."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.lower().startswith(("flags", "features")):
                    return [platform.machine(), line.split(":", 1)[1].strip()]
    except (OSError, ValueError, IndexError):
        pass
    return None


def _digest(content: Any) -> str:
    """The sha256 of JSON content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def _remove_old(folder: str) -> None:
    """Delete all but the folders written last. A process has read a folder whole once its sessions are open; one that
    comes later makes its graphs again."""
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    stored = [path for path in paths if os.path.basename(path).startswith(_PREFIX)]
    stored.sort(key=os.path.getmtime, reverse=True)
    abandoned = [
        path
        for path in paths
        if os.path.basename(path).startswith(_WRITING + _PREFIX) and time.time() - os.path.getmtime(path) > _ABANDONED_S
    ]
    for path in stored[_MOST:] + abandoned:
        shutil.rmtree(path, ignore_errors=True)
