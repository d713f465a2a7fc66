"""Building a bundle's TensorRT engines on the device they shall run on: once for all domains, tomorrow's too.

Every engine is written as soon as it is built, so an interrupted build goes on where it was.
"""

import hashlib
import os
import re
import time
from typing import Callable, Iterable, List, NamedTuple, Optional, Tuple, Union

from ..bundle.bundle import Bundle
from ..cuda.interface import open_cuda
from ..errors import BackendError
from ..onnx_graph.model import Model
from ..onnx_graph.subgraphs import PRECISIONS, engine_subgraph
from ..onnx_graph.writing import write_model
from ..schedule.layout import join_plan
from ..system.atomic import replace_file
from .api import Library
from .builder import Builder, Recipe
from .engines import FULL, Spec, Wanted, profile, set_key, unique, wanted_engines
from .formats import LINEAR
from .store import Device, EngineSet, engines_folder, has_plan, read_set, tidy_set, write_plan

_WORKSPACE = 1 << 30
_MOST_IMAGES = 1024


class Progress(NamedTuple):
    """Engine `number` of `total` is begun (seconds None) or done. left: seconds to go, as far as can be told; reused:
    it was there before."""

    name: str
    number: int
    total: int
    seconds: Optional[float]
    left: Optional[float]
    reused: bool


class BuildReport(NamedTuple):
    """built, reused: how many engines; nbytes: of all plans together; linear: values that lie in plain rows because
    an engine did not build otherwise."""

    folder: str
    device: Device
    spec: Spec
    built: int
    reused: int
    nbytes: int
    seconds: float
    linear: Tuple[str, ...]


Listener = Callable[[Progress], None]


def build_engines(
    bundle_path: Union[str, "os.PathLike[str]"],
    precision: str = "fp16",
    batch: Tuple[int, int] = (1, 8),
    workspace_bytes: Optional[int] = None,
    progress: Optional[Listener] = None,
    force: bool = False,
    engines: Optional[str] = None,
) -> BuildReport:
    """Build what is missing of a bundle's engines. Raises BackendError.

    precision: fp16, fp32 or int8. batch: the number of images to tune for, and the most at a time. workspace_bytes:
    what TensorRT may take to work in (None: 1 GiB, or half of what is free if that is less). force: build all again.
    engines: a folder to put them in, if not the bundle's own.
    """
    spec = _spec(precision, batch)
    with Bundle(bundle_path) as bundle:
        folder = engines_folder(bundle, engines)
        cuda = open_cuda()  # before TensorRT is asked for anything, see trt_api
        library = Library()
        device = Device(library.version, cuda.gpu.name, cuda.gpu.sm)
        with cuda.current():
            workspace = min(_WORKSPACE, cuda.memory()[0] // 2) if workspace_bytes is None else workspace_bytes
            return _Build(bundle, spec, device, folder, workspace, library).run(force, progress)


def is_quantised(model: Model) -> bool:
    """Does the graph carry Q/DQ pairs?"""
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in model.nodes)


class _Build:
    """One call of `build_engines`."""

    def __init__(
        self, bundle: Bundle, spec: Spec, device: Device, folder: str, workspace: int, library: Library
    ) -> None:
        self._bundle = bundle
        self._spec = spec
        self._device = device
        self._folder = folder
        self._workspace = workspace
        self._library = library
        self._layout = join_plan(bundle.manifest, True)
        name = "timing-%s-sm%d-%s.cache" % (device.tensorrt, device.sm, _slug(device.gpu))
        self._timing = os.path.join(folder, name)
        self._builder = Builder(library, _read(self._timing))

    def run(self, force: bool, progress: Optional[Listener]) -> BuildReport:
        """Build until no engine is missing. Where one builds with plain rows only, its values lie so from then on,
        and what else touches them is built again."""
        started = time.time()
        self._set = self._begin(force)
        seconds: List[float] = []
        slow = self._pass(seconds, progress)
        while slow:
            self._set = self._set._replace(linear=tuple(sorted(set(self._set.linear) | set(slow))))
            slow = self._pass(seconds, progress)
        self._set = tidy_set(self._set, [w.identity for w in self._wanted(self._set.linear)])
        entries = self._set.engines.values()
        return BuildReport(
            folder=self._set.folder,
            device=self._device,
            spec=self._spec,
            built=len(seconds),
            reused=max(0, len(entries) - len(seconds)),
            nbytes=sum(int(entry["bytes"]) for entry in entries),
            seconds=time.time() - started,
            linear=self._set.linear,
        )

    def _pass(self, seconds: List[float], progress: Optional[Listener]) -> List[str]:
        """Build what is missing, and add to `seconds` what each took; the values that must lie in plain rows, as soon
        as there are any."""
        wanted = self._wanted(self._set.linear)
        missing = [not has_plan(self._set, one.identity) for one in wanted]
        for i, one in enumerate(wanted):
            step = Progress(one.subgraph.segment.name, i + 1, len(wanted), None, None, not missing[i])
            if missing[i]:
                _tell(progress, step)
                begun = time.time()
                slow = self._build(one, i + 1)
                if slow:
                    return slow
                seconds.append(time.time() - begun)
            took = seconds[-1] if missing[i] else 0.0
            left = sum(seconds) / len(seconds) * sum(missing[i + 1 :]) if seconds else None
            _tell(progress, step._replace(seconds=took, left=left))
        return []

    def _begin(self, force: bool) -> EngineSet:
        """What an earlier build left, or nothing."""
        wanted = self._wanted(())
        key = set_key(wanted, self._spec, self._device)
        name = "trt%s-sm%d-%s-%s" % (self._device.tensorrt, self._device.sm, self._spec.precision, key)
        path = os.path.join(self._folder, name)
        found = None if force else read_set(path)
        return found or EngineSet(path, self._device, self._spec, {}, (), len(wanted), time.time())

    def _wanted(self, linear: Iterable[str]) -> List[Wanted]:
        return unique(wanted_engines(self._layout, self._bundle.manifest, self._spec, self._device.sm, linear))

    def _build(self, one: Wanted, number: int) -> List[str]:
        """Build and write one engine, or give the values that must lie in plain rows for it to build."""
        name = one.subgraph.segment.name
        full = [b.tensor for b in one.specs if b.dtype == FULL]
        model = engine_subgraph(one.subgraph, self._bundle, self._spec.precision, full, self._library.typed)
        data = write_model(model)
        recipe = Recipe(
            name,
            {b.tensor: profile(b, self._spec) for b in one.inputs},
            {b.tensor: b.layout for b in one.specs},
            self._spec.precision != "fp32",
            is_quantised(model),
            self._workspace,
        )
        try:
            plan = self._builder.plan(data, recipe)
        except BackendError:
            fast = [b.value for b in one.specs if b.layout != LINEAR]
            if fast:  # raises as well where the layouts are not to blame
                self._builder.plan(data, recipe._replace(layouts=dict.fromkeys(recipe.layouts, LINEAR)))
                return fast
            raise
        entry = {
            "name": name,
            "plan": "%03d-%s-%s.plan" % (number, _slug(name)[:60], one.identity[:12]),
            "sha256": hashlib.sha256(plan).hexdigest(),
            "bytes": len(plan),
            "onnx_sha256": hashlib.sha256(data).hexdigest(),
            "layouts": recipe.layouts,
        }
        write_plan(self._set, one.identity, entry, plan)
        try:
            replace_file(self._timing, lambda file: file.write(self._builder.timing))
        except OSError:
            pass  # it only saves time
        return []


def _tell(progress: Optional[Listener], step: Progress) -> None:
    if progress is not None:
        progress(step)


def _spec(precision: str, batch: Tuple[int, int]) -> Spec:
    if precision not in PRECISIONS:
        raise BackendError("unknown precision %r; known: %s" % (precision, ", ".join(PRECISIONS)))
    if not 1 <= batch[0] <= batch[1] <= _MOST_IMAGES:
        raise BackendError(
            "batch %d:%d: the first number must be at least 1, the second not below it and at most %d"
            % (batch[0], batch[1], _MOST_IMAGES)
        )
    return Spec(precision, (int(batch[0]), int(batch[1])))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
