"""Where built engines lie, and which of them this device may use.

    BUNDLE/engines/<key>/engines.json    what they were built from, for and with
    BUNDLE/engines/<key>/*.plan          one engine each
    BUNDLE/engines/timing-*.cache        what TensorRT measured while building

A plan is read by the very TensorRT release and on the very kind of GPU it was built with; anything else is refused
here, in words, before TensorRT sees it.
"""

import hashlib
import json
import os
import re
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..schedule.layout import Layout
from ..system.atomic import replace_file
from .engines import Spec, Wanted, unique, wanted_engines

INDEX = "engines.json"
_FORMAT = 1
_PLAN = re.compile(r"^[A-Za-z0-9_.\-]+\.plan\Z")
_LIMIT = 16 * 1024 * 1024


class Device(NamedTuple):
    """What a plan depends on. sm: compute capability without its dot."""

    tensorrt: str
    gpu: str
    sm: int

    def __str__(self) -> str:
        return "TensorRT %s on sm_%d" % (self.tensorrt, self.sm)


class EngineSet(NamedTuple):
    """A folder of engines. engines: identity -> entry; linear: see `wanted_engines`; total: how many belong to it;
    built: when, in seconds since 1970."""

    folder: str
    device: Device
    spec: Spec
    engines: Dict[str, Dict[str, Any]]
    linear: Tuple[str, ...]
    total: int
    built: float


def engines_folder(bundle: Bundle, folder: Optional[str] = None) -> str:
    """Where a bundle's engines lie: `folder`, or inside the bundle."""
    if folder is not None:
        return folder
    if bundle.is_zip:
        raise BackendError(
            "%s is a zip, which cannot hold engines: unzip it and use the folder, or name another folder for them "
            "with --engines" % bundle.path
        )
    return os.path.join(bundle.path, "engines")


def read_sets(folder: str) -> List[EngineSet]:
    """Every set of engines in the folder, last built first. What is not one is passed over."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    sets = [read_set(os.path.join(folder, name)) for name in names if not name.startswith(".")]
    return sorted((s for s in sets if s is not None), key=lambda s: -s.built)


def read_set(folder: str) -> Optional[EngineSet]:
    """The set in one folder, None if there is none that makes sense."""
    path = os.path.join(folder, INDEX)
    try:
        if os.path.getsize(path) > _LIMIT:
            return None
        with open(path, "rb") as file:
            root = json.loads(file.read().decode("utf-8"))
        if root["format"] != _FORMAT:
            return None
        device = Device(str(root["tensorrt"]), str(root["gpu"]), int(root["sm"]))
        spec = Spec(str(root["precision"]), (int(root["batch"]["opt"]), int(root["batch"]["max"])))
        engines = {str(key): dict(entry) for key, entry in root["engines"].items()}
        for entry in engines.values():
            if not _PLAN.match(entry["plan"]) or not isinstance(entry["sha256"], str):
                return None
        linear = tuple(str(name) for name in root["linear"])
        return EngineSet(folder, device, spec, engines, linear, int(root["total"]), float(root["built"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_set(engines: EngineSet) -> None:
    """Write engines.json as it stands. Raises OSError."""
    content = {
        "format": _FORMAT,
        "tensorrt": engines.device.tensorrt,
        "gpu": engines.device.gpu,
        "sm": engines.device.sm,
        "precision": engines.spec.precision,
        "batch": {"min": 1, "opt": engines.spec.batch[0], "max": engines.spec.batch[1]},
        "linear": list(engines.linear),
        "total": engines.total,
        "built": engines.built,
        "engines": engines.engines,
    }
    data = json.dumps(content, indent=1).encode()
    replace_file(os.path.join(engines.folder, INDEX), lambda file: file.write(data))


def write_plan(engines: EngineSet, identity: str, entry: Dict[str, Any], plan: bytes) -> None:
    """Write an engine, then the index that knows it. Raises BackendError."""
    try:
        if not os.path.isdir(engines.folder):
            os.makedirs(engines.folder)
        replace_file(os.path.join(engines.folder, entry["plan"]), lambda file: file.write(plan))
        engines.engines[identity] = entry
        write_set(engines)
    except OSError as error:
        raise BackendError(
            "an engine cannot be written (%s): make room, or name another folder with --engines; what is built stays"
            % error
        )


def tidy_set(engines: EngineSet, identities: Sequence[str]) -> EngineSet:
    """The set with these engines, built now; any other plan is deleted from its folder. Raises BackendError."""
    kept = {identity: engines.engines[identity] for identity in identities}
    done = engines._replace(engines=kept, total=len(kept), built=time.time())
    names = {entry["plan"] for entry in kept.values()}
    try:
        write_set(done)
        for name in os.listdir(done.folder):
            if name.endswith(".plan") and name not in names:
                os.remove(os.path.join(done.folder, name))
    except OSError as error:
        raise BackendError("%s cannot be written: %s" % (done.folder, error))
    return done


def read_plan(engines: EngineSet, identity: str) -> bytes:
    """The bytes of a plan, as they were written."""
    entry = engines.engines[identity]
    path = os.path.join(engines.folder, entry["plan"])
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BackendError("an engine cannot be read (%s): run `da3 build`" % error)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise BackendError("%s is not the engine that was built (wrong sha256): run `da3 build`" % path)
    return data


def describe_sets(bundle: Bundle) -> str:
    """The engines in a bundle, a line for each set."""
    sets = [] if bundle.is_zip else read_sets(engines_folder(bundle))
    lines = [
        "engines: %s (%s), %s, 1 to %d images at a time: %d of %d"
        % (s.device, s.device.gpu, s.spec.precision, s.spec.batch[1], len(s.engines), s.total)
        for s in sets
    ]
    return "\n".join(lines) or "engines: none"


def has_plan(engines: EngineSet, identity: str) -> bool:
    """Is the engine there, of the size it was written with?"""
    entry = engines.engines.get(identity)
    if entry is None:
        return False
    path = os.path.join(engines.folder, entry["plan"])
    return os.path.isfile(path) and os.path.getsize(path) == entry["bytes"]


def choose_set(
    folder: str, layout: Layout, bundle: Bundle, device: Device, precision: Optional[str] = None
) -> Tuple[EngineSet, List[Wanted]]:
    """The set built last that holds every engine of the layout for this device, and what each subgraph needs of it.

    Raises BackendError that says why there is none.
    """
    sets = [s for s in read_sets(folder) if precision in (None, s.spec.precision)]
    here = [s for s in sets if s.device == device]
    for engines in here:
        wanted = wanted_engines(layout, bundle.manifest, engines.spec, device.sm, engines.linear)
        if all(w.identity in engines.engines for w in wanted):
            return engines, wanted
    kind = "" if precision is None else " in %s" % precision
    command = "run `da3 build`" if precision is None else "run `da3 build --precision %s`" % precision
    if not sets:
        raise BackendError("%s: no engines%s are built for it yet: %s" % (bundle.path, kind, command))
    if not here:
        raise BackendError(
            "%s: its engines%s were built with %s" % (bundle.path, kind, _foreign(sets, device, command))
        )
    raise BackendError("%s: %s" % (bundle.path, _lacking(here[0], layout, bundle, command)))


def _foreign(sets: Sequence[EngineSet], device: Device, command: str) -> str:
    theirs = sets[0].device
    if (theirs.tensorrt, theirs.sm) == (device.tensorrt, device.sm):
        return "%s on a %s; this is a %s: %s" % (theirs.tensorrt, theirs.gpu, device.gpu, command)
    return "%s; this is %s: %s" % (theirs, device, command)


def _lacking(engines: EngineSet, layout: Layout, bundle: Bundle, command: str) -> str:
    if len(layout.readable) > 1:
        return "%s cannot be read from TensorRT engines: trace with the backend onnxruntime or reference" % (
            ", ".join(layout.readable[1:])
        )
    wanted = unique(wanted_engines(layout, bundle.manifest, engines.spec, engines.device.sm, engines.linear))
    there = [w for w in wanted if w.identity in engines.engines]
    if there and len(engines.engines) < engines.total:
        return "%d of its %d engines are built: %s to go on" % (len(engines.engines), engines.total, command)
    return "its engines were built from other ONNX files than it has now: %s" % command
