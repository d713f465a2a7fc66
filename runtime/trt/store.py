"""Where built engines lie, and how they are written there and read.

BUNDLE/engines/<key>/engines.json    what they were built from, for and with
BUNDLE/engines/<key>/*.plan          one engine each
BUNDLE/engines/timing-*.cache        what TensorRT measured while building
"""

import hashlib
import json
import os
import re
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ..bundle.bundle import Bundle
from ..bundle.jsonfile import read_json
from ..errors import BackendError, printable
from ..system.atomic import replace_file
from ..system.regular import read_regular
from .engines import EngineOptions, Exceptions

INDEX = "engines.json"
_FORMAT = 2
_PLAN = re.compile(r"^[A-Za-z0-9_.\-]+\.plan\Z")
_LIMIT = 16 * 1024 * 1024


class Device(NamedTuple):
    """What a plan depends on. tensorrt: the release; sm: the GPU's compute capability without its dot."""

    tensorrt: str
    gpu: str
    sm: int

    def __str__(self) -> str:
        return "TensorRT %s on sm_%d" % (self.tensorrt, self.sm)


class EngineEntry(NamedTuple):
    """What the index says of one engine. name: its subgraph's; plan: the file's name; sha256, nbytes: the file's;
    onnx_sha256: that of the graph it was built from; layouts: how each input and output lies in memory; precision: what
    it computes in, which may not be what was asked for; libraries: whether it takes tactics from cuBLAS or cuDNN;
    seconds: that it took to build."""

    name: str
    plan: str
    sha256: str
    nbytes: int
    onnx_sha256: str
    layouts: Dict[str, str]
    precision: str
    libraries: bool
    seconds: float


class EngineSet(NamedTuple):
    """A folder of engines. engines: by identity; total: how many engines belong to it; built: when, in seconds since
    1970."""

    folder: str
    device: Device
    options: EngineOptions
    engines: Dict[str, EngineEntry]
    exceptions: Exceptions
    total: int
    built: float


def engines_folder(bundle: Bundle, folder: Optional[str] = None) -> str:
    """Where a bundle's engines lie: `folder`, or inside the bundle. Raises BackendError for a zip without a folder,
    BundleError where the bundle's is a link that leads elsewhere."""
    if folder is not None:
        return folder
    if bundle.is_zip:
        raise BackendError(
            "%s is a zip, which cannot hold engines: unzip it and use the folder, or name another folder for them "
            "with --engines" % bundle.path
        )
    bundle.files.refuse_links("engines")
    return os.path.join(bundle.path, "engines")


def read_sets(folder: str) -> List[EngineSet]:
    """Every set of engines in the folder, the last built first. What is not a set is passed over."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    sets = [read_set(os.path.join(folder, name)) for name in names if not name.startswith(".")]
    return sorted((s for s in sets if s is not None), key=lambda s: -s.built)


def read_set(folder: str) -> Optional[EngineSet]:
    """The set in one folder, None if there is none that makes sense."""
    path = os.path.join(folder, INDEX)
    try:
        root = read_json(read_regular(path, _LIMIT), _LIMIT)
        if root["format"] != _FORMAT:
            return None
        return EngineSet(
            folder=folder,
            device=Device(str(root["tensorrt"]), str(root["gpu"]), int(root["sm"])),
            options=EngineOptions(str(root["precision"]), (int(root["batch"]["opt"]), int(root["batch"]["max"]))),
            engines={str(identity): _read_entry(entry) for identity, entry in root["engines"].items()},
            exceptions=Exceptions(*(tuple(str(name) for name in root[key]) for key in Exceptions._fields)),
            total=int(root["total"]),
            built=float(root["built"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def write_set(engines: EngineSet) -> None:
    """Write engines.json as it stands. Raises OSError."""
    content = {
        "format": _FORMAT,
        "tensorrt": engines.device.tensorrt,
        "gpu": engines.device.gpu,
        "sm": engines.device.sm,
        "precision": engines.options.precision,
        "batch": {"min": 1, "opt": engines.options.batch[0], "max": engines.options.batch[1]},
        "linear": list(engines.exceptions.linear),
        "full": list(engines.exceptions.full),
        "total": engines.total,
        "built": engines.built,
        "engines": {identity: _entry_content(entry) for identity, entry in engines.engines.items()},
    }
    data = json.dumps(content, indent=1).encode()
    replace_file(os.path.join(engines.folder, INDEX), lambda file: file.write(data))


def write_plan(engines: EngineSet, identity: str, entry: EngineEntry, plan: bytes) -> None:
    """Write an engine, then the index that knows it. Raises BackendError."""
    try:
        if not os.path.isdir(engines.folder):
            os.makedirs(engines.folder)
        replace_file(os.path.join(engines.folder, entry.plan), lambda file: file.write(plan))
        engines.engines[identity] = entry
        write_set(engines)
    except OSError as error:
        raise BackendError(
            "an engine cannot be written (%s): make room, or name another folder with --engines; what is built stays"
            % error
        )


def tidy_set(engines: EngineSet, identities: Sequence[str]) -> EngineSet:
    """The set with these engines alone, built now; any other plan is deleted from its folder. Raises BackendError."""
    entries = {identity: engines.engines[identity] for identity in identities}
    done = engines._replace(engines=entries, total=len(entries), built=time.time())
    names = {entry.plan for entry in entries.values()}
    try:
        write_set(done)
        for name in os.listdir(done.folder):
            if name.endswith(".plan") and name not in names:
                os.remove(os.path.join(done.folder, name))
    except OSError as error:
        raise BackendError("%s cannot be written: %s" % (done.folder, error))
    return done


def read_plan(engines: EngineSet, identity: str) -> bytes:
    """The bytes of a plan, as they were written. Raises BackendError."""
    entry = engines.engines[identity]
    path = os.path.join(engines.folder, entry.plan)
    try:
        data = read_regular(path)
    except OSError as error:
        raise BackendError("an engine cannot be read (%s): run `da3 build`" % error)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BackendError("%s is not the engine that was built (wrong sha256): run `da3 build`" % path)
    return data


def has_plan(engines: EngineSet, identity: str) -> bool:
    """Is the engine there, of the size it was written with?"""
    entry = engines.engines.get(identity)
    if entry is None:
        return False
    path = os.path.join(engines.folder, entry.plan)
    return os.path.isfile(path) and os.path.getsize(path) == entry.nbytes


def describe_sets(bundle: Bundle) -> str:
    """The engines in a bundle, a line for each set."""
    sets = [] if bundle.is_zip else read_sets(engines_folder(bundle))
    lines = [
        "engines: %s (%s), %s, %s at a time: %d of %d%s"
        % (
            s.device,
            s.device.gpu,
            s.options.precision,
            render_batch(s.options),
            len(s.engines),
            s.total,
            _departures(s),
        )
        for s in sets
    ]
    return "\n".join(map(printable, lines)) or "engines: none"


def render_batch(options: EngineOptions) -> str:
    """How many images engines take, in words."""
    return "1 image" if options.batch[1] == 1 else "1 to %d images" % options.batch[1]


def _departures(engines: EngineSet) -> str:
    """How many engines are not what was asked for, in words; nothing where all are."""
    entries = engines.engines.values()
    words: List[str] = []
    for precision in ("fp16", "fp32"):
        count = sum(entry.precision == precision for entry in entries)
        if count and precision != engines.options.precision:
            words.append("%d in %s" % (count, precision))
    libraries = sum(entry.libraries for entry in entries)
    if libraries:
        words.append("%d with cuDNN or cuBLAS" % libraries)
    return "".join(", " + text for text in words)


def _read_entry(content: Dict[str, Any]) -> EngineEntry:
    """An entry of the index. Raises KeyError, TypeError or ValueError for what is none."""
    if not _PLAN.match(content["plan"]) or not isinstance(content["sha256"], str):
        raise ValueError("no entry of an index of engines")
    return EngineEntry(
        name=str(content["name"]),
        plan=content["plan"],
        sha256=content["sha256"],
        nbytes=int(content["bytes"]),
        onnx_sha256=str(content["onnx_sha256"]),
        layouts={str(tensor): str(layout) for tensor, layout in content["layouts"].items()},
        precision=str(content["precision"]),
        libraries=bool(content["libraries"]),
        seconds=float(content["seconds"]),
    )


def _entry_content(entry: EngineEntry) -> Dict[str, Any]:
    return {
        "name": entry.name,
        "plan": entry.plan,
        "sha256": entry.sha256,
        "bytes": entry.nbytes,
        "onnx_sha256": entry.onnx_sha256,
        "layouts": entry.layouts,
        "precision": entry.precision,
        "libraries": entry.libraries,
        "seconds": entry.seconds,
    }
