"""Building a bundle's TensorRT engines on the device they shall run on: once for all domains, future ones included,
but for those that close blocks in a way no domain here does.

Every engine is written as soon as it is built, so an interrupted build goes on where it was.
"""

import hashlib
import os
import time
from contextlib import ExitStack
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from ..bundle.bundle import Bundle, read_domain
from ..cuda.opening import open_cuda
from ..errors import BackendError, BundleError, DomainError
from ..onnx_graph.model import Model
from ..onnx_graph.subgraphs import PRECISIONS, engine_subgraph, for_images
from ..onnx_graph.writing import write_model
from ..schedule.layout import Layout, join_plan
from ..system.atomic import remove_unfinished
from ..system.locking import exclusive
from .api import Library
from .builder import Builder, GraphRefused, Recipe, default_workspace
from .engines import (
    NO_EXCEPTIONS,
    EngineOptions,
    EngineSpec,
    Exceptions,
    engine_specs,
    possible_precision,
    profile,
    set_key,
    unique,
)
from .formats import LINEAR
from .store import Device, EngineEntry, EngineSet, engines_folder, has_plan, read_set, tidy_set, write_plan
from .tensor_spec import FULL, HALF
from .timing import read_timing, slug, timing_file, write_timing

_MOST_IMAGES = 1024
# What an engine is built as where it does not build as it was asked for, in turn.
_FALLBACK = {"int8": ("int8", "fp16", "fp32"), "fp16": ("fp16", "fp32"), "fp32": ("fp32",)}


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
    together; exceptions: see there; fallen: the names of engines that were built in another precision than the one
    asked for, by that precision; libraries: those that take tactics from cuBLAS or cuDNN; asked: the precision that
    was asked for, which `options` does not have where the GPU lacks it."""

    folder: str
    device: Device
    options: EngineOptions
    built: int
    reused: int
    nbytes: int
    seconds: float
    exceptions: Exceptions
    fallen: Dict[str, List[str]]
    libraries: List[str]
    asked: str


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

    precision: fp16, fp32 or int8, which is fp16 where the GPU has no INT8. batch: the number of images to tune for, and
    the most at a time; 1 and 1 make engines for exactly one image. workspace_bytes: what TensorRT may take to work in
    (None: 1 GiB, or half of what is free if that is less). force: build all again. engines: a folder to put them in, if
    not the bundle's own.
    """
    options = _options(precision, batch)
    with Bundle(bundle_path) as bundle:
        folder = engines_folder(bundle, engines)
        cuda = open_cuda()  # before TensorRT is asked for anything, see api.py
        library = Library()
        device = Device(library.version, cuda.gpu.name, cuda.gpu.sm)
        options = options._replace(precision=possible_precision(precision, device.sm))
        with cuda.current():
            workspace = default_workspace(cuda) if workspace_bytes is None else workspace_bytes
            build = _Build(
                bundle, library, options=options, device=device, folder=folder, workspace=workspace, progress=progress
            )
            return build.run(force)._replace(asked=precision)


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
        self._again: Set[str] = set()  # identities of engines that are there, and built again nevertheless
        self._seconds: List[float] = []  # that each engine took, in the order they were built

    def run(self, force: bool) -> BuildReport:
        """Build until no engine is missing. Where one builds with plain rows or as float32 only, its values lie so from
        then on, and what else touches them is built again. force: what an earlier build left is not used."""
        started = time.time()
        self._set = self._begin(force)
        with ExitStack() as lock:
            try:
                os.makedirs(self._set.folder, exist_ok=True)
                lock.enter_context(exclusive(self._set.folder, patience=0.0))
                remove_unfinished(self._set.folder)
                remove_unfinished(self._folder)
            except OSError as error:
                raise BackendError("%s cannot be written: %s" % (self._set.folder, error.strerror or error))
            return self._build_all(force, started)

    def _build_all(self, force: bool, started: float) -> BuildReport:
        self._set = self._begin(force)  # again: another process may have built some before this one had the lock
        found = self._build_missing()
        while found is not None:
            self._set = self._set._replace(exceptions=_joined(self._set.exceptions, found))
            found = self._build_missing()
        self._set = tidy_set(self._set, [spec.identity for spec in self._specs(self._set.exceptions)])
        entries = self._set.engines.values()
        fallen: Dict[str, List[str]] = {}
        for entry in entries:
            if entry.precision != self._options.precision:
                fallen.setdefault(entry.precision, []).append(entry.name)
        return BuildReport(
            folder=self._set.folder,
            device=self._device,
            options=self._options,
            built=len(self._seconds),
            reused=max(0, len(entries) - len(self._seconds)),
            nbytes=sum(entry.nbytes for entry in entries),
            seconds=time.time() - started,
            exceptions=self._set.exceptions,
            fallen=fallen,
            libraries=[entry.name for entry in entries if entry.libraries],
            asked=self._options.precision,
        )

    def _begin(self, force: bool) -> EngineSet:
        """What an earlier build left, or a set without engines. force: each of them is used until it is built again."""
        # Named after what every bundle of these files needs, so that domains come and go in the same set.
        basis = self._specs_of(self._layouts[0], NO_EXCEPTIONS)
        key = set_key(basis, self._options, self._device)
        name = "trt%s-sm%d-%s-%s" % (self._device.tensorrt, self._device.sm, self._options.precision, key)
        path = os.path.join(self._folder, name)
        found = read_set(path)
        if found is not None and not force:
            return found
        engines = {} if found is None else found.engines
        self._again = set(engines)
        return EngineSet(
            folder=path,
            device=self._device,
            options=self._options,
            engines=engines,
            exceptions=NO_EXCEPTIONS,
            total=len(self._specs(NO_EXCEPTIONS)),
            built=time.time(),
        )

    def _specs_of(self, layout: Layout, exceptions: Exceptions) -> List[EngineSpec]:
        return engine_specs(
            layout,
            self._bundle.manifest,
            self._options,
            sm=self._device.sm,
            typed=self._library.typed,
            exceptions=exceptions,
        )

    def _specs(self, exceptions: Exceptions) -> List[EngineSpec]:
        return unique([spec for layout in self._layouts for spec in self._specs_of(layout, exceptions)])

    def _build_missing(self) -> Optional[Exceptions]:
        """Build what is missing of the set. Ends early with the values that must lie otherwise, if there are any, for
        an engine to build."""
        specs = self._specs(self._set.exceptions)
        missing = [spec.identity in self._again or not has_plan(self._set, spec.identity) for spec in specs]
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
                found = self._build(spec, i + 1)
                if found is not None:
                    return found
                self._seconds.append(time.time() - begun)
            seconds = self._seconds
            took = seconds[-1] if missing[i] else 0.0
            left = sum(seconds) / len(seconds) * sum(missing[i + 1 :]) if seconds else None
            self._tell(step._replace(seconds=took, left=left))
        return None

    def _build(self, spec: EngineSpec, number: int) -> Optional[Exceptions]:
        """Build and write one engine, or give the values that must lie otherwise for it to build."""
        begun = time.time()
        first: Optional[BackendError] = None
        refused: Set[str] = set()
        for attempt in self._attempts(spec):
            if attempt.precision in refused:
                continue
            try:
                made = self._make(spec, attempt)
            except GraphRefused as error:
                first = first or error
                refused.add(attempt.precision)
            except BackendError as error:
                first = first or error
            else:
                if attempt.found is None:
                    self._keep(spec, number, attempt, made, time.time() - begun)
                return attempt.found
        assert first is not None
        raise first

    def _attempts(self, spec: EngineSpec) -> Iterator["_Attempt"]:
        """How an engine is built, from the best to what is better than nothing: without tactics of cuBLAS and cuDNN
        first; then in a lower precision, which nobody else notices; then with other values at its borders."""
        libraries = (False, True) if self._builder.has_libraries else (False,)
        half = any(tensor.dtype == HALF for tensor in spec.tensors)
        if half:
            inner = [precision for precision in _FALLBACK[self._options.precision] if precision != "fp32"]
        elif self._library.typed:
            inner = ["fp32"]  # all borders were made float32 for it, and it would take casts to compute otherwise
        else:
            inner = list(_FALLBACK[self._options.precision])  # nobody else sees what it computes in
        for precision in inner:
            for allowed in libraries:
                yield _Attempt(precision, allowed, spec, None)
        linear = tuple(tensor.value for tensor in spec.tensors if tensor.layout != LINEAR)
        full = tuple(tensor.value for tensor in spec.tensors if tensor.dtype == HALF)
        if linear:
            rows = tuple(tensor._replace(layout=LINEAR) for tensor in spec.tensors)
            for precision in inner:
                yield _Attempt(precision, libraries[-1], spec.over(rows), Exceptions(linear=linear))
        if full:
            rows = tuple(tensor._replace(layout=LINEAR, dtype=FULL) for tensor in spec.tensors)
            yield _Attempt("fp32", libraries[-1], spec.over(rows), Exceptions(full=full))

    def _make(self, spec: EngineSpec, attempt: "_Attempt") -> "_Made":
        """Build as an attempt has it. Raises BackendError."""
        options, tensors = self._options, attempt.spec.tensors
        full = [tensor.tensor for tensor in tensors if tensor.dtype == FULL]
        model = engine_subgraph(spec.subgraph, self._bundle, attempt.precision, full, self._library.typed)
        if options.batch[1] == 1:
            model = for_images(model, spec.subgraph.segment, 1)
        data = write_model(model)
        halves = () if self._library.typed else tuple(t.tensor for t in tensors if t.dtype == HALF)
        recipe = Recipe(
            name=spec.subgraph.segment.name,
            profiles={tensor.tensor: profile(tensor, options) for tensor in spec.inputs},
            layouts={tensor.tensor: tensor.layout for tensor in tensors},
            half=attempt.precision != "fp32" or bool(halves),
            int8=is_quantised(model),
            workspace=self._workspace,
            halves=halves,
            libraries=attempt.libraries,
        )
        return _Made(self._builder.plan(data, recipe), hashlib.sha256(data).hexdigest())

    def _keep(self, spec: EngineSpec, number: int, attempt: "_Attempt", made: "_Made", seconds: float) -> None:
        """Write an engine, and what was measured on the way."""
        name = spec.subgraph.segment.name
        sha256 = hashlib.sha256(made.plan).hexdigest()
        entry = EngineEntry(
            name=name,
            # With its own hash: until the index knows it, it must not lie in the place of the one that the index has.
            plan="%03d-%s-%s-%s.plan" % (number, slug(name)[:60], spec.identity[:12], sha256[:8]),
            sha256=sha256,
            nbytes=len(made.plan),
            onnx_sha256=made.onnx_sha256,
            layouts={tensor.tensor: tensor.layout for tensor in spec.tensors},
            precision=attempt.precision,
            libraries=attempt.libraries,
            seconds=round(seconds, 3),
        )
        write_plan(self._set, spec.identity, entry, made.plan)
        self._again.discard(spec.identity)
        write_timing(self._timing, self._builder.timing)

    def _tell(self, step: Progress) -> None:
        if self._progress is not None:
            self._progress(step)


class _Attempt(NamedTuple):
    """A way to build an engine. spec: its tensors as they would be; found: the values that must lie otherwise then."""

    precision: str
    libraries: bool
    spec: EngineSpec
    found: Optional[Exceptions]


class _Made(NamedTuple):
    """A plan, and the hash of the graph it was built from."""

    plan: bytes
    onnx_sha256: str


def _joined(one: Exceptions, other: Exceptions) -> Exceptions:
    return Exceptions(*(tuple(sorted(set(a) | set(b))) for a, b in zip(one, other)))


def _options(precision: str, batch: Tuple[int, int]) -> EngineOptions:
    if precision not in PRECISIONS:
        raise BackendError("unknown precision %r; known: %s" % (precision, ", ".join(PRECISIONS)))
    if not 1 <= batch[0] <= batch[1] <= _MOST_IMAGES:
        raise BackendError(
            "batch %d:%d: the first number must be at least 1, the second not below it and at most %d"
            % (batch[0], batch[1], _MOST_IMAGES)
        )
    return EngineOptions(precision, (int(batch[0]), int(batch[1])))
