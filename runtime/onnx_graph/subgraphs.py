"""The graph of a subgraph in the precision that is asked for.

A bundle's files are float32; all else is made of them.
"""

import hashlib
import json
from typing import Container, List, NamedTuple, Sequence

from ..bundle.bundle import BundleContents
from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH
from ..errors import BackendError
from ..records import Segment, Value
from ..schedule.layout import Subgraph
from .float16 import to_half
from .int8_ranges import INT8_FILE
from .int8_subgraphs import int8_subgraph
from .joining import subgraph_model
from .model import Info, Model
from .opset import to_opset_19

PRECISIONS = ("fp32", "fp16", "int8")
_MAKING = 2  # to be raised when `cpu_subgraph` makes other graphs of the same files than before


class Ingredients(NamedTuple):
    """What a subgraph's graph is made of: the sha256 of each file, and where the steps are wired to each other.

    wiring: for each of several steps, the values of the plan that it reads, and those that it writes. It is empty for
    a single step, whose values may have any name.
    """

    files: List[str]
    wiring: List[List[Sequence[str]]]


def ingredients(subgraph: Subgraph, manifest: Manifest, precision: str) -> Ingredients:
    """What the graph of `subgraph` is made of in a precision. No domain is in it: its weights are inputs."""
    names = [manifest.segments[step.segment].file for step in subgraph.steps]
    if precision == "int8" and INT8_FILE in manifest.files:
        names.append(INT8_FILE)
    wiring: List[List[Sequence[str]]] = []
    if len(subgraph.steps) > 1:
        wiring = [[step.inputs, step.outputs] for step in subgraph.steps]
    return Ingredients([manifest.files[name].sha256 for name in names], wiring)


def subgraph_identity(subgraph: Subgraph, manifest: Manifest, precision: str) -> str:
    """64 hex digits, which are equal for subgraphs of which `cpu_subgraph` makes the same graph, in any bundle."""
    made_of = ingredients(subgraph, manifest, precision)
    segments = [manifest.segments[step.segment] for step in subgraph.steps] + [subgraph.segment]
    ends = [[segment.inputs, segment.outputs] for segment in segments]
    content = [_MAKING, precision, made_of.files, made_of.wiring, ends]
    return hashlib.sha256(json.dumps(content).encode("utf-8")).hexdigest()


def cpu_subgraph(subgraph: Subgraph, bundle: BundleContents, precision: str = "fp32") -> Model:
    """A subgraph whose inputs and outputs are float32, whatever is between them.

    With int8, what is not quantised is float32 too. Raises BackendError for an unknown precision, and BundleError.
    """
    if precision == "fp32":
        return subgraph_model(subgraph, bundle)
    if precision == "fp16":
        model = subgraph_model(subgraph, bundle)
        return to_half(model, {info.name for info in model.inputs + model.outputs})
    if precision == "int8":
        return int8_subgraph(subgraph, bundle)
    raise BackendError("unknown precision %r; known: %s" % (precision, ", ".join(PRECISIONS)))


def engine_subgraph(
    subgraph: Subgraph, bundle: BundleContents, precision: str, full: Container[str] = (), typed: bool = True
) -> Model:
    """A subgraph as TensorRT takes it.

    typed: the release takes types as they are written. With fp16 and int8, all that is not quantised is float16 there,
    quantisers' scales, inputs and outputs included, but not the inputs and outputs in `full`, which are cast. Other
    releases choose among the types that their flags allow, and are told those of inputs and outputs apart from the
    graph, which is float32 throughout: a Cast would be a kernel of its own, between a pinned layout and the
    convolution; the importer of 8.2 reads the bounds of Clip as float32 whatever they are, and quantisers take float32
    only, right before their convolution, and no int8 constants.
    """
    if precision == "fp32":
        return subgraph_model(subgraph, bundle)
    model = (
        subgraph_model(subgraph, bundle) if precision == "fp16" else int8_subgraph(subgraph, bundle, pairs=not typed)
    )
    if not typed:
        return model
    quantised = any(node.op == "QuantizeLinear" for node in model.nodes)
    return to_half(to_opset_19(model) if quantised else model, full)


def for_images(model: Model, segment: Segment, images: int) -> Model:
    """The graph of a segment for exactly so many images: no dimension of its inputs and outputs is free."""

    def fixed(infos: Sequence[Info], values: Sequence[Value]) -> List[Info]:
        shapes = [tuple(images if n == BATCH else n for n in value.shape) for value in values]
        return [info._replace(shape=shape) for info, shape in zip(infos, shapes)]

    return model.replace(inputs=fixed(model.inputs, segment.inputs), outputs=fixed(model.outputs, segment.outputs))
