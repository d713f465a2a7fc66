"""Stage: every engine alone on golden inputs, then the whole chain of them, value by value; what each call takes."""

import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

import numpy as np

from ..backends.interface import Backend, ExecutionContext
from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..bundle.plan import DOMAIN
from ..errors import Da3Error
from ..records import Array, Domain, Shape
from ..schedule.layout import join_plan
from ..schedule.walk import walk
from ..system.percentiles import percentiles_ms
from .computing import NumpySteps, answers_of, compute, part_inputs
from .findings import Teller
from .goldens import Goldens
from .options import SelftestOptions
from .parts import Part, parts_of
from .pictures import network_images
from .subjects import Subject, read_subject, subject_names, title_of, with_goldens
from .summary import not_finite, relative_error, summarised
from .tolerances import BY_PRECISION, LEAST, Tolerance, precision_of

PARTS_OF = "parts of %s"  # the note of what calls take
P50, P50_EAGER = "p50 ms", "p50 ms eager"
_ROUNDS, _CALLS = 7, 8  # of a measurement; calls between two waits


def check_parts(options: SelftestOptions, tell: Teller) -> None:
    """Tells a finding for each part of each layout that the subjects run, and one for each subject's chain."""
    with Bundle(options.bundle) as bundle:
        seen: Set[Any] = set()
        for name in subject_names(bundle, options.quick):
            try:
                subject = read_subject(bundle, name)
                fresh = subject.domain.closed not in seen
                seen.add(subject.domain.closed)
                _check_subject(options, tell, bundle, subject, fresh)
            except Da3Error as error:
                tell.check(False, title_of(name), str(error))


def _check_subject(options: SelftestOptions, tell: Teller, bundle: Bundle, subject: Subject, fresh: bool) -> None:
    """fresh: no subject before had these parts, so they are tested alone as well."""
    backend = options.new_backend(bundle)
    tolerance = BY_PRECISION[precision_of(options, backend, bundle)]
    domain = subject.domain._replace(gated=False)
    tell.begin("%s: opening its engines" % subject.name)
    opened = _Opened(backend, bundle, domain, readable=not backend.looks_ahead)
    try:
        subject = with_goldens(subject, bundle, options.quick, tell.begin, opened.parts if fresh else ())
        assert subject.goldens is not None
        if fresh:
            _check_alone(tell, opened, subject, tolerance)
        _check_chain(tell, opened, subject.name, subject.goldens, tolerance.chain)
    finally:
        opened.close()
    if fresh:
        measure_parts(options, tell, bundle, subject)


class _Opened:
    """A layout on a backend, with a context for one picture. readable: what crosses its parts can be read and written
    as it is, for which ONNX Runtime hands features on in the ordinary layout. eager: nothing is recorded as a CUDA
    graph; `eager` is False again where it is not anyway."""

    def __init__(self, backend: Backend, bundle: Bundle, domain: Domain, readable: bool, eager: bool = False) -> None:
        self.backend, self.bundle, self.domain = backend, bundle, domain
        manifest = bundle.manifest
        layout = join_plan(manifest, backend.looks_ahead, closed=domain.closed)
        if readable:
            crossing = {n for s in layout.subgraphs for n in s.inputs + s.outputs if not n.startswith(DOMAIN)}
            layout = join_plan(
                manifest, backend.looks_ahead, sorted(crossing & set(layout.values)), closed=domain.closed
            )
        self.layout = layout._replace(lasting=not readable)
        self.parts = parts_of(self.layout)
        self.context: Optional[ExecutionContext] = None
        try:
            backend.open(self.layout, bundle)
            self.eager = eager and _without_graphs(backend)
            self._weights = backend.weights(domain)
            self.context = backend.context(1)
            self._calls = [[self.context.bind(s, self._weights) for s in part.subgraphs] for part in self.parts]
        except BaseException:
            self.close()
            raise

    def calls(self, part: Part) -> List[Callable[[], None]]:
        """What runs the part, bound to the context."""
        return self._calls[self.parts.index(part)]

    def run(self, part: Part) -> None:
        """Run the part on what its inputs hold."""
        for call in self.calls(part):
            call()

    def read(self, part: Part) -> Dict[str, Array]:
        """What the part has written, float32 (1, ...) each."""
        assert self.context is not None
        return {name: self.context.read(name) for name in part.outputs}

    def close(self) -> None:
        """Free all of it."""
        if self.context is not None:
            self.context.close()
        self.context, self._calls, self._weights = None, [], None
        self.backend.close()


# -- right or wrong


def _check_alone(tell: Teller, opened: _Opened, subject: Subject, tolerance: Tolerance) -> None:
    manifest, goldens = opened.bundle.manifest, subject.goldens
    assert goldens is not None and opened.context is not None
    images = network_images(goldens.pictures[:1], manifest.preprocessing)
    shapes = _shapes(opened)
    given = {part: part_inputs(part, goldens, shapes, images) for part in opened.parts}
    if any(inputs is None for inputs in given.values()) or any(
        part.key(name) not in goldens.alone for part in opened.parts for name in part.outputs
    ):
        tell.begin("%s: computing golden values in numpy, since this engine is cut in other parts" % subject.name)
        goldens = _of_these_parts(opened, goldens)
        given = {part: part_inputs(part, goldens, shapes, images) for part in opened.parts}
    for part in opened.parts:
        name = "%s, %s" % (subject.name, part.name)
        tell.begin(name)
        inputs = given[part]
        assert inputs is not None, part
        try:
            found = _run_alone(opened, part, inputs, images)
        except Da3Error as error:
            tell.check(False, name, str(error))
            continue
        expected = {value: goldens.alone[part.key(value)][None] for value in part.outputs}
        _compare(tell, name, manifest, found, expected, tolerance.part)


def _run_alone(opened: _Opened, part: Part, inputs: Mapping[str, Array], images: Array) -> Dict[str, Array]:
    context = opened.context
    assert context is not None
    context.begin(images)
    try:
        for value in part.inputs:
            if value != "image":
                context.write(value, inputs[value])
        opened.run(part)
        return opened.read(part)
    finally:
        context.end()


def _of_these_parts(opened: _Opened, goldens: Goldens) -> Goldens:
    """The golden values of the same pictures, for the parts that this engine runs."""
    steps = NumpySteps(opened.bundle)
    computed = compute(opened.bundle, opened.domain, steps, NumpySteps.BY, goldens.pictures[:1], parts=opened.parts)
    return computed.goldens


def _check_chain(tell: Teller, opened: _Opened, name: str, goldens: Goldens, allowed: float) -> None:
    """Each golden picture through all parts; nobody leaves, every gate is open."""
    manifest, context = opened.bundle.manifest, opened.context
    assert context is not None
    images = network_images(goldens.pictures, manifest.preprocessing)
    tell.begin("%s: %d pictures through all parts" % (name, len(images)))
    rows: Dict[str, List[Array]] = {}
    for image in images:
        context.begin(np.ascontiguousarray(image[None]))
        try:
            for part in opened.parts:
                if not part.instead:
                    opened.run(part)
                    for value, array in opened.read(part).items():
                        rows.setdefault(value, []).append(array)
        finally:
            context.end()
    found = {value: np.concatenate(arrays) for value, arrays in rows.items()}
    expected = {value: goldens.chain[value] for value in found if value in goldens.chain}
    good = _compare(tell, "%s, all parts" % name, manifest, found, expected, allowed)
    if not good and goldens.by != NumpySteps.BY:
        _check_files(tell, opened, name, goldens)


def _check_files(tell: Teller, opened: _Opened, name: str, goldens: Goldens) -> None:
    """Is the bundle wrong, or the engine? Its files are run in numpy, for one picture, and compared in the plan's
    order."""
    name = "%s, its files in numpy" % name
    tell.begin(name)
    manifest, allowed = opened.bundle.manifest, BY_PRECISION["fp32"].chain
    images = network_images(goldens.pictures[:1], manifest.preprocessing)
    whole = answers_of(manifest)
    with np.errstate(all="ignore"):
        for visit in walk(manifest, opened.domain, images, NumpySteps(opened.bundle)):
            for value, array in visit.written.items():
                if value not in goldens.chain:
                    continue
                error = relative_error(summarised(array, value in whole), goldens.chain[value][:1], LEAST)
                if not error <= allowed:
                    text = "%s, which %s writes, is the first that is off, by %.1e: the bundle's files are wrong" % (
                        value,
                        visit.step.segment,
                        error,
                    )
                    tell.check(False, name, text, {"value": value, "relative": error})
                    return
    tell.check(True, name, "they compute what they should: an engine is wrong")


def _compare(
    tell: Teller,
    name: str,
    manifest: Manifest,
    found: Mapping[str, Array],
    expected: Mapping[str, Array],
    allowed: float,
) -> bool:
    """One finding for all values of a part, or of a chain, and whether it is good; the text is about the worst, or the
    first that is no number."""
    whole = answers_of(manifest)
    errors: Dict[str, float] = {}
    largest: Dict[str, float] = {}
    for value, golden in expected.items():
        broken = not_finite(found[value])
        if broken:
            text = "%s: %d of its %d numbers are NaN or infinite" % (value, broken, found[value].size)
            tell.check(False, name, text, {"value": value, "not finite": broken})
            return False
        summary = summarised(found[value], value in whole)
        errors[value] = relative_error(summary, golden, LEAST)
        largest[value] = float(np.abs(summary - golden).max()) if summary.shape == golden.shape else float("inf")
    wrong = [value for value in errors if not errors[value] <= allowed]
    worst = wrong[0] if wrong else max(errors, key=lambda value: errors[value])
    text = "%s is off by %.1e of its largest number, allowed %g" % (worst, errors[worst], allowed)
    tell.check(not wrong, name, text, {"relative": errors, "largest": largest, "allowed": allowed, "wrong": wrong})
    return not wrong


def _shapes(opened: _Opened) -> Dict[str, Shape]:
    """The shape of every value that crosses parts, without the batch; a dimension of the domain's is its classes."""
    classes = len(opened.domain.classes)
    return {
        name: tuple(n if isinstance(n, int) else classes for n in shape[1:])
        for name, shape in opened.layout.values.items()
    }


# -- how fast


def measure_parts(options: SelftestOptions, tell: Teller, bundle: Bundle, subject: Subject) -> None:
    """Notes what a call of each part takes, in the layouts in which pictures are run; with CUDA graphs and without them
    where there are any."""
    rows: Dict[str, Dict[str, float]] = {}
    for kind in (P50, P50_EAGER):
        backend = options.new_backend(bundle)
        tell.begin("%s: timing its parts" % subject.name)
        eager = kind == P50_EAGER
        opened = _Opened(backend, bundle, subject.domain._replace(gated=False), readable=False, eager=eager)
        try:
            if eager and not opened.eager:
                break
            for part, took in _timed(opened):
                row = rows.setdefault(part.name, {})
                row[kind] = took
                row["FLOPs share"] = _flops_share(bundle.manifest, part)
                row["instead"] = float(part.instead)
        finally:
            opened.close()
    tell.note(PARTS_OF % subject.name, rows)


def _flops_share(manifest: Manifest, part: Part) -> float:
    """The part's share of the blocks' FLOPs."""
    blocks = [step.block for subgraph in part.subgraphs for step in subgraph.steps if step.block is not None]
    total = sum(block.flops for block in manifest.blocks)
    return sum(manifest.blocks[number].flops for number in blocks) / total if total > 0 else 0.0


def _without_graphs(backend: Backend) -> bool:
    """Have calls that are bound from now on run as they are; False where nothing is recorded anyway."""
    if backend.name != "tensorrt":
        return False
    from ..trt.inspection import run_eagerly

    return run_eagerly(backend)


def _timed(opened: _Opened) -> List[Tuple[Part, float]]:
    """(part, median milliseconds of a call) for each part."""
    context = opened.context
    assert context is not None
    size = opened.bundle.manifest.preprocessing.size
    gates = {
        part: [context.gate(value) for value in part.outputs if value in opened.layout.gates] for part in opened.parts
    }

    def run(part: Part, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            opened.run(part)
            for read in gates[part]:
                read()  # what is copied to the host must have arrived before the next call overwrites it
        context.read(part.outputs[-1])  # waits for a device that works on while the host goes on
        return time.perf_counter() - start

    found: List[Tuple[Part, float]] = []
    context.begin(np.zeros((1, 3, size, size), np.float32))
    try:
        for part in opened.parts:
            run(part, 1)
        for part in opened.parts:
            run(part, _CALLS)
            each = [(run(part, _CALLS + 1) - run(part, 1)) / _CALLS for _ in range(_ROUNDS)]
            found.append((part, max(0.0, percentiles_ms(each)["p50"])))
    finally:
        context.end()
    return found
