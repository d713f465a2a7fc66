"""Does a segment's graph compute what the manifest says of it, in no more memory and time than that can take?

Asked of every graph when it is read, for one image and before an engine sees it: an engine folds constants, plans its
memory and divides by strides while it loads a graph, without asking.
"""

from typing import Dict, List, Optional, Set

import numpy as np

from ..bundle.plan import BATCH
from ..errors import BundleError, quoted
from ..records import Array, Segment, Shape
from .model import Info, Model
from .operator_shapes import Dims, Operands, Refused, output_shape, product, work

_MOST_NODES = 4096
_MOST_DIMENSIONS = 8
_MOST_NUMBERS = 1 << 25  # of one value: 128 MiB; EfficientNet-B7's largest, at 600 px, has half as many
_MOST_TOGETHER = 1 << 27  # of all values of a graph
_MOST_WORK = 10**11  # operations; a ResNet-152 does a quarter of it for one image of 224 px
_SIZE = 1009  # what a dimension is tried with that is the domain's: a prime, which nothing equals by accident


def check_graph(model: Model, segment: Segment, where: str) -> None:
    """Raise BundleError, which begins with `where`, unless the graph gives the segment's outputs of its inputs, with
    operators that bundles are written with. model: its inputs and outputs are in the segment's order."""
    if len(model.nodes) > _MOST_NODES:
        raise BundleError("%s: it has %d nodes, more than the %d allowed" % (where, len(model.nodes), _MOST_NODES))
    shapes: Dict[str, Dims] = {}
    constants: Dict[str, Array] = dict(model.weights)
    for name, array in model.weights.items():
        shapes[name] = array.shape
    sizes: Dict[str, int] = {BATCH: 1}
    for info, value in zip(model.inputs, segment.inputs):
        _check_end(info, value.shape, where)
        if info.name in shapes:
            raise BundleError("%s: the input %s is a weight too" % (where, quoted(info.name)))
        shapes[info.name] = _tried(value.shape, sizes)
    together = done = 0
    for node in model.nodes:
        at = "%s: %s, which writes %s" % (where, quoted(node.op), quoted((node.outputs or [""])[0]))
        operands = _operands(node.inputs, shapes, constants, at)
        try:
            made = output_shape(node, operands)
        except Refused as reason:
            raise BundleError("%s: %s" % (at, reason))
        if len(made) > _MOST_DIMENSIONS or product(made) > _MOST_NUMBERS:
            raise BundleError("%s: a shape of %s, more than the %d numbers allowed" % (at, made, _MOST_NUMBERS))
        together += product(made)
        done += work(node, operands, made)
        if together > _MOST_TOGETHER or done > _MOST_WORK:
            raise BundleError("%s: up to here there is more to compute than in any network that da3 knows" % at)
        (name,) = node.outputs
        if name in shapes:
            raise BundleError("%s: that is written already" % at)
        shapes[name] = made
        value_of = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value_of, np.ndarray):
            constants[name] = value_of
    for info, value in zip(model.outputs, segment.outputs):
        _check_end(info, value.shape, where)
        found = shapes.get(info.name)
        if found is None:
            raise BundleError("%s: nothing writes its output %s" % (where, quoted(info.name)))
        if found != _tried(value.shape, sizes):
            raise BundleError(
                "%s: its output %s has the shape %s, and the manifest says %s; export the bundle again"
                % (where, quoted(info.name), _shown(found), list(value.shape))
            )


def _operands(names: List[str], shapes: Dict[str, Dims], constants: Dict[str, Array], at: str) -> Operands:
    unknown: Set[str] = {name for name in names if name and name not in shapes}
    if unknown:
        raise BundleError("%s: it reads %s, which nothing before it writes" % (at, quoted(sorted(unknown)[0])))
    found: List[Optional[Dims]] = [shapes[name] if name else None for name in names]
    return Operands(found, [constants.get(name) for name in names])


def _check_end(info: Info, shape: Shape, where: str) -> None:
    """An input or output is declared as the manifest says, with float32 numbers."""
    fits = len(info.shape) == len(shape) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(info.shape, shape)
    )
    if info.dtype != np.float32 or not fits:
        raise BundleError(
            "%s: it declares %s as %s of shape %s, and the manifest says float32 of shape %s; export the bundle again"
            % (where, quoted(info.name), info.dtype, quoted(list(info.shape)), list(shape))
        )


def _tried(shape: Shape, sizes: Dict[str, int]) -> Dims:
    return tuple(sizes.setdefault(n, _SIZE) if isinstance(n, str) else n for n in shape)


def _shown(shape: Dims) -> List[object]:
    return ["a domain's size" if n == _SIZE else n for n in shape]
