"""Building a bundle's TensorRT engines on the device they shall run on: once for all domains, future ones included,
but for those that close blocks in a way no domain here does.

Every engine is written as soon as it is built, so an interrupted build goes on where it was.
"""

import hashlib
import os
import time
from typing import Callable, Iterable, List, NamedTuple, Optional, Set, Tuple, Union

from ..bundle.bundle import Bundle, read_domain
from ..cuda.opening import open_cuda
from ..errors import BackendError, BundleError, DomainError
from ..onnx_graph.model import Model
from ..onnx_graph.subgraphs import PRECISIONS, engine_subgraph
from ..onnx_graph.writing import write_model
from ..schedule.layout import Layout, join_plan
from .api import Library
from .builder import Builder, Recipe
from .engines import EngineOptions, EngineSpec, engine_specs, profile, set_key, unique
from .formats import LINEAR
from .store import Device, EngineEntry, EngineSet, engines_folder, has_plan, read_set, tidy_set, write_plan
from .tensor_spec import FULL
from .timing import read_timing, slug, timing_file, write_timing

_WORKSPACE = 1 << 30
_MOST_IMAGES = 1024


class Progress(NamedTuple):
    """Engine `number` of `total` is begun or done. name: its subgraph's; seconds: how long it took, None where it is
    begun; left: an estimate of the seconds to go, None where there is none yet; reused: it was there before."""

    name: str
    number: int
    total: int
    seconds: Optional[float]
    left: Optional[float]
    reused: bool


class BuildReport(NamedTuple):
    """What a build has done. folder: where the engines lie; built, reused: how many engines; nbytes: of all plans
    together; linear: values that lie in plain rows because an engine did not build otherwise."""

    folder: str
    device: Device
    options: EngineOptions
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
    *,
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
    options = _options(precision, batch)
    with Bundle(bundle_path) as bundle:
        folder = engines_folder(bundle, engines)
        cuda = open_cuda()  # before TensorRT is asked for anything, see api.py
        library = Library()
        device = Device(library.version, cuda.gpu.name, cuda.gpu.sm)
        with cuda.current():
            workspace = min(_WORKSPACE, cuda.memory()[0] // 2) if workspace_bytes is None else workspace_bytes
            build = _Build(
                bundle, library, options=options, device=device, folder=folder, workspace=workspace, progress=progress
            )
            return build.run(force)


def needed_layouts(bundle: Bundle) -> List[Layout]:
    """What the bundle's domains are run as, first that of a domain which closes no block.

    Their parts alone: the whole as one engine would be the backbone built and stored once more, and where nobody
    leaves, running the parts one behind the other costs a few launches that the GPU does not wait for.
    """
    closed: Set[Tuple[int, ...]] = set()
    for name in bundle.domains:
        try:
            closed.add(read_domain(bundle, name).closed)
        except (BundleError, DomainError):
            continue  # it cannot be run either; loading it says why
    return [join_plan(bundle.manifest, True, closed=blocks) for blocks in [()] + sorted(closed - {()})]


def is_quantised(model: Model) -> bool:
    """Does the graph carry Q/DQ pairs?"""
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in model.nodes)


class _Build:
    """One call of `build_engines`. workspace: bytes that TensorRT may take to work in."""

    def __init__(
        self,
        bundle: Bundle,
        library: Library,
        *,
        options: EngineOptions,
        device: Device,
        folder: str,
        workspace: int,
        progress: Optional[Listener],
    ) -> None:
        self._bundle = bundle
        self._options = options
        self._device = device
        self._folder = folder
        self._workspace = workspace
        self._library = library
        self._progress = progress
        self._layouts = needed_layouts(bundle)
        self._timing = timing_file(folder, device)
        self._builder = Builder(library, read_timing(self._timing))
        self._seconds: List[float] = []  # that each engine took, in the order they were built

    def run(self, force: bool) -> BuildReport:
        """Build until no engine is missing. Where one builds with plain rows only, its values lie so from then on,
        and what else touches them is built again. force: what an earlier build left is not used."""
        started = time.time()
        self._set = self._begin(force)
        slow = self._build_missing()
        while slow:
            self._set = self._set._replace(linear=tuple(sorted(set(self._set.linear) | set(slow))))
            slow = self._build_missing()
        self._set = tidy_set(self._set, [spec.identity for spec in self._specs(self._set.linear)])
        entries = self._set.engines.values()
        return BuildReport(
            folder=self._set.folder,
            device=self._device,
            options=self._options,
            built=len(self._seconds),
            reused=max(0, len(entries) - len(self._seconds)),
            nbytes=sum(entry.nbytes for entry in entries),
            seconds=time.time() - started,
            linear=self._set.linear,
        )

    def _begin(self, force: bool) -> EngineSet:
        """What an earlier build left, or a set without engines."""
        # Named after what every bundle of these files needs, so that domains come and go in the same set.
        basis = engine_specs(self._layouts[0], self._bundle.manifest, self._options, self._device.sm)
        key = set_key(basis, self._options, self._device)
        name = "trt%s-sm%d-%s-%s" % (self._device.tensorrt, self._device.sm, self._options.precision, key)
        path = os.path.join(self._folder, name)
        found = None if force else read_set(path)
        return found or EngineSet(
            folder=path,
            device=self._device,
            options=self._options,
            engines={},
            linear=(),
            total=len(self._specs(())),
            built=time.time(),
        )

    def _specs(self, linear: Iterable[str]) -> List[EngineSpec]:
        linear = tuple(linear)
        manifest, sm = self._bundle.manifest, self._device.sm
        found = [engine_specs(layout, manifest, self._options, sm, linear) for layout in self._layouts]
        return unique([spec for specs in found for spec in specs])

    def _build_missing(self) -> List[str]:
        """Build what is missing of the set. Ends early with the values that must lie in plain rows, if there are any,
        for an engine to build."""
        specs = self._specs(self._set.linear)
        missing = [not has_plan(self._set, spec.identity) for spec in specs]
        for i, spec in enumerate(specs):
            step = Progress(
                name=spec.subgraph.segment.name,
                number=i + 1,
                total=len(specs),
                seconds=None,
                left=None,
                reused=not missing[i],
            )
            if missing[i]:
                self._tell(step)
                begun = time.time()
                slow = self._build(spec, i + 1)
                if slow:
                    return slow
                self._seconds.append(time.time() - begun)
            seconds = self._seconds
            took = seconds[-1] if missing[i] else 0.0
            left = sum(seconds) / len(seconds) * sum(missing[i + 1 :]) if seconds else None
            self._tell(step._replace(seconds=took, left=left))
        return []

    def _build(self, spec: EngineSpec, number: int) -> List[str]:
        """Build and write one engine, or give the values that must lie in plain rows for it to build."""
        name = spec.subgraph.segment.name
        full = [tensor.tensor for tensor in spec.tensors if tensor.dtype == FULL]
        model = engine_subgraph(spec.subgraph, self._bundle, self._options.precision, full, self._library.typed)
        data = write_model(model)
        recipe = Recipe(
            name=name,
            profiles={tensor.tensor: profile(tensor, self._options) for tensor in spec.inputs},
            layouts={tensor.tensor: tensor.layout for tensor in spec.tensors},
            half=self._options.precision != "fp32",
            int8=is_quantised(model),
            workspace=self._workspace,
        )
        try:
            plan = self._builder.plan(data, recipe)
        except BackendError:
            fast = [tensor.value for tensor in spec.tensors if tensor.layout != LINEAR]
            if fast:  # raises as well where the layouts are not to blame
                self._builder.plan(data, recipe._replace(layouts=dict.fromkeys(recipe.layouts, LINEAR)))
                return fast
            raise
        entry = EngineEntry(
            name=name,
            plan="%03d-%s-%s.plan" % (number, slug(name)[:60], spec.identity[:12]),
            sha256=hashlib.sha256(plan).hexdigest(),
            nbytes=len(plan),
            onnx_sha256=hashlib.sha256(data).hexdigest(),
            layouts=recipe.layouts,
        )
        write_plan(self._set, spec.identity, entry, plan)
        write_timing(self._timing, self._builder.timing)
        return []

    def _tell(self, step: Progress) -> None:
        if self._progress is not None:
            self._progress(step)


def _options(precision: str, batch: Tuple[int, int]) -> EngineOptions:
    if precision not in PRECISIONS:
        raise BackendError("unknown precision %r; known: %s" % (precision, ", ".join(PRECISIONS)))
    if not 1 <= batch[0] <= batch[1] <= _MOST_IMAGES:
        raise BackendError(
            "batch %d:%d: the first number must be at least 1, the second not below it and at most %d"
            % (batch[0], batch[1], _MOST_IMAGES)
        )
    return EngineOptions(precision, (int(batch[0]), int(batch[1])))
