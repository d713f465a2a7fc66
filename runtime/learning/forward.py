"""The network of one domain as it is while it learns: its tensors are inputs, and closed blocks are left out."""

from typing import Collection, Dict, List, NamedTuple, Tuple

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS, exit_steps
from ..errors import BundleError
from ..onnx_graph.joining import Piece, joined, pruned, read_piece
from ..onnx_graph.model import Info, Model
from ..onnx_graph.operator_shapes import Dims
from ..onnx_graph.whole import without_repeats
from ..records import Segment, Value
from ..schedule.layout import whole_plan
from ..training.recipe import CARRY
from .channel_groups import in_channel_groups
from .shapes import ANY
from .writing import GraphWriter

_CARRY = "carry"  # the constant of a classifier's graph: the part of the answer before that it adds


class Forward(NamedTuple):
    """graph: written so far, its values called as in the plan. tensors: the domain's that it reads, shapes by name
    without "domain:". exits: what the exits on the way answer, in order; the last answer is LOGITS."""

    graph: GraphWriter
    model: Model
    tensors: Dict[str, Dims]
    exits: Tuple[str, ...]

    def inputs(self) -> List[Info]:
        """The image and the domain's tensors."""
        return self.model.inputs

    def finished(self, inputs: List[Info], outputs: List[Info], name: str) -> Model:
        """What was written, without what no output needs."""
        model = self.model.replace(self.graph.finished(), self.graph.weights, inputs, outputs)
        model.name = name
        return pruned(model)


def forward(
    bundle: BundleContents,
    classes: int,
    closed: Collection[int],
    values: Collection[str] = (),
    *,
    trained: bool = True,
    grouped: bool = False,
) -> Forward:
    """The answers of the network as trained: the last one carries CARRY of the last exit's; or, where `trained` is
    False, as the bundle has it.

    values: others of the plan's that are wanted. grouped: wide blocks are computed a group of channels at a time, see
    channel_groups.py. Raises BundleError if a file is damaged, and for a bundle of format 1,
    whose blocks have gates.
    """
    manifest = bundle.manifest
    gated = [step for step in manifest.plan if step.gate is not None]
    if gated:
        raise BundleError(
            "%s: is of format 1, with gates, which cannot be learned here: export the bundle again" % bundle.path
        )
    whole = whole_plan(manifest, closed)
    exits = tuple(step.outputs[0] for step in exit_steps(whole.steps))
    pieces = [read_piece(step, bundle) for step in whole.steps]
    if trained:
        pieces = [as_trained(piece, bool(exits), bundle.path) for piece in pieces]
    shapes = {name: value.shape for name, value in zip(whole.inputs, whole.segment.inputs)}
    tensors = {
        name[len(DOMAIN) :]: tuple(classes if isinstance(n, str) else n for n in shape)
        for name, shape in shapes.items()
        if name.startswith(DOMAIN)
    }
    given = [Value(IMAGE, shapes[IMAGE])] + [Value(DOMAIN + name, shape) for name, shape in tensors.items()]
    written = {name: value for piece in pieces for name, value in zip(piece.step.outputs, piece.segment.outputs)}
    wanted = [Value(name, written[name].shape) for name in exits + (LOGITS,) + tuple(values)]
    model = joined(pieces, Segment("learning", "", tuple(given), tuple(wanted)), bundle.path)
    if model.opsets.get("") != 13:
        raise BundleError(
            "%s: its files are of opset %s, not 13: export the bundle again" % (bundle.path, model.opsets)
        )
    model = pruned(without_repeats(model))
    dims: Dict[str, Dims] = {
        info.name: tuple(ANY if n == BATCH else int(n or 0) for n in info.shape) for info in model.inputs
    }
    if grouped:
        model = in_channel_groups(model, dims)
    return Forward(GraphWriter(model, dims), model, tensors, exits)


def as_trained(piece: Piece, has_exits: bool, path: str) -> Piece:
    """The last classifier with the part that it carries while it is trained."""
    if LOGITS not in piece.step.outputs or not has_exits:
        return piece
    if _CARRY not in piece.model.weights:
        raise BundleError("%s: its last classifier does not carry the exits' answers: export the bundle again" % path)
    weights = dict(piece.model.weights)
    weights[_CARRY] = np.array(CARRY, np.float32)
    return piece._replace(model=piece.model.replace(weights=weights))
