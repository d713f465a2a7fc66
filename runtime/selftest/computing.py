"""Golden values made: the plan is walked step by step on a reference, nothing joined, nothing fused.

`da3 export` walks it on ONNX Runtime, a session for each file of the bundle; a board whose bundle has no golden values
walks it in numpy.
"""

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from ..backends.reference import Program
from ..bundle.bundle import BundleContents
from ..bundle.manifest import Manifest
from ..bundle.plan import DOMAIN, IMAGE, LOGITS, domain_inputs, exit_steps, logits_shape, sized
from ..onnx_graph.joining import read_piece
from ..records import Array, Domain, ExitRule, Shape, Step
from ..schedule.layout import join_plan
from ..schedule.walk import RunStep, inputs_of, walk
from .goldens import Goldens
from .noise import noise
from .parts import Part, parts_of
from .pictures import golden_pictures, network_images
from .summary import GROUPS, summarised

TRIED = "selftest"  # the domain that every backbone can be tested with
_CLASSES = 5
_SPREAD = 0.035  # of its numbers: a standard deviation of 0.02, as a fresh adaptor's
_CELLS = 4  # a side, in each of which a generated input is constant, since features of photos are smooth too


class Expected(NamedTuple):
    """goldens, and for each picture which blocks ran: bool (N, blocks), where gates decide."""

    goldens: Goldens
    ran: Array


def tried_domain(manifest: Manifest) -> Domain:
    """A domain of generated numbers, with which a backbone can be tested that has no domain yet."""
    classes = logits_shape(manifest.plan, manifest.segments)[-1]
    count = classes if isinstance(classes, int) else _CLASSES
    sizes = {} if isinstance(classes, int) else {classes: count}
    weights: Dict[str, Array] = {}
    for name, shapes in domain_inputs(manifest.plan, manifest.segments).items():
        shape = sized(shapes[0], sizes)
        assert shape is not None, name
        weights[name] = np.ascontiguousarray(_SPREAD * (2 * noise(shape, "tensor %s" % name) - 1), np.float32)
    return Domain(
        name=TRIED,
        classes=tuple("class %d" % number for number in range(count)),
        backbone_sha256=manifest.backbone_sha256,
        size=manifest.preprocessing.size,
        adaptor=manifest.adaptor,
        metrics={},
        weights=weights,
        exits=(ExitRule(None),) * len(exit_steps(manifest.plan)),
    )


def compute_goldens(bundle: BundleContents, domain: Domain, run_step: RunStep, by: str) -> Goldens:
    """The golden values of a domain that is `fitted` to the bundle, gates left open. by: what runs the steps, in a
    word."""
    return compute(bundle, domain._replace(gated=False), run_step, by).goldens


def compute(
    bundle: BundleContents,
    domain: Domain,
    run_step: RunStep,
    by: str,
    pictures: Optional[Array] = None,
    parts: Optional[Sequence[Part]] = None,
) -> Expected:
    """`compute_goldens`, with gates as the domain has them. pictures: uint8 (N, s, s, 3), None: those generated for
    this. parts: those that are to be tested alone, None: those that a GPU runs."""
    manifest = bundle.manifest
    pictures = golden_pictures() if pictures is None else pictures
    images = network_images(pictures, manifest.preprocessing)
    parts = parts_of(join_plan(manifest, True, closed=domain.closed)) if parts is None else parts
    wanted, whole = _wanted(manifest, parts), answers_of(manifest)
    chain: Dict[str, Array] = {}
    groups: Dict[str, Array] = {}
    shapes: Dict[str, Tuple[int, ...]] = {}
    crossing = {name for part in parts for name in part.inputs}
    ran = np.ones((len(images), len(manifest.blocks)), bool)
    for visit in walk(manifest, domain, images, run_step):
        if visit.step.block is not None:
            ran[:, visit.step.block] = visit.ran
        for name, value in visit.written.items():
            if name in wanted:
                chain[name] = summarised(value, name in whole)
            if name in crossing:
                groups[name] = _statistics(value)
                shapes[name] = value.shape[1:]
    goldens = Goldens(by, pictures, tuple(domain.closed), chain, groups, {})
    alone: Dict[str, Array] = {}
    for part in parts:
        given = part_inputs(part, goldens, shapes, images)
        for name, value in _part_outputs(part, given, domain, run_step).items():
            alone[part.key(name)] = summarised(value, name in whole)[0]
    return Expected(goldens._replace(alone=alone), ran)


def answers_of(manifest: Manifest) -> Set[str]:
    """The values that golden values hold element by element, however many there are: the answers."""
    return {LOGITS} | {step.outputs[0] for step in exit_steps(manifest.plan)}


def part_inputs(part: Part, goldens: Goldens, shapes: Mapping[str, Shape], images: Array) -> Optional[Dict[str, Array]]:
    """What a part is given when it is tested alone, float32 (1, ...) each: the first picture, or generated numbers;
    None where the golden values know nothing of one. shapes: of each value, without the batch."""
    given: Dict[str, Array] = {}
    for name in part.inputs:
        if name == IMAGE:
            given[name] = images[:1]
        elif name not in goldens.starts:
            return None
        else:
            given[name] = _generated(name, shapes[name], goldens.starts[name])
    return given


class NumpySteps:
    """A `RunStep` that runs a bundle's files in numpy, each by itself."""

    BY = "numpy"

    def __init__(self, bundle: BundleContents) -> None:
        self._bundle = bundle
        self._programs: Dict[str, Program] = {}

    def __call__(self, step: Step, inputs: List[Array]) -> Sequence[Array]:
        if step.segment not in self._programs:
            where = "%s: segment %s" % (self._bundle.path, step.segment)
            self._programs[step.segment] = Program(read_piece(step, self._bundle).model, where)
        return self._programs[step.segment].run(inputs)


def _wanted(manifest: Manifest, parts: Sequence[Part]) -> Set[str]:
    """The values that golden values hold: what blocks read first, what crosses parts, gates and answers."""
    wanted = {step.inputs[0] for step in manifest.plan if step.block is not None}
    wanted |= {name for part in parts for name in part.inputs + part.outputs}
    wanted |= {step.gate for step in manifest.plan if step.gate is not None}
    return wanted | answers_of(manifest)


def _statistics(value: Array) -> Array:
    """float32 (N, C, ...) -> float32 (groups, 2): mean and standard deviation of each group of channels."""
    rows = value.reshape(len(value), -1)
    channels = value.shape[1] if value.ndim > 1 else 1
    found: Array = np.array([[part.mean(), part.std()] for part in np.array_split(rows, min(GROUPS, channels), axis=1)])
    return found.astype(np.float32)


def _generated(name: str, shape: Shape, statistics: Array) -> Array:
    """float32 (1, ...): evenly spread numbers of these means and deviations, constant in cells."""
    sides = tuple(int(n) for n in shape)
    cells = sides[:1] + tuple(min(_CELLS, side) for side in sides[1:])
    numbers = 2 * noise(cells, "value %s" % name) - 1
    for axis, side in enumerate(sides[1:], 1):
        numbers = np.take(numbers, np.arange(side) * cells[axis] // side, axis=axis)
    channels = sides[0] if sides else 1
    group = np.arange(channels) * len(statistics) // channels
    mean, spread = statistics[group, 0], statistics[group, 1] * np.float32(np.sqrt(3.0))
    each = (channels,) + (1,) * (len(sides) - 1)
    found = numbers.reshape(sides or (1,)) * spread.reshape(each) + mean.reshape(each)
    return np.ascontiguousarray(found.reshape((1,) + sides), np.float32)


def _part_outputs(part: Part, given: Optional[Dict[str, Array]], domain: Domain, run_step: RunStep) -> Dict[str, Array]:
    assert given is not None, part.name
    values = dict(given)
    for subgraph in part.subgraphs:
        for step in subgraph.steps:
            values.update(zip(step.outputs, run_step(step, inputs_of(step, values, domain))))
    return {name: values[name] for name in part.outputs if not name.startswith(DOMAIN)}
