"""What exits see of a picture, from the cells that the next block's adaptor reads: in numpy, without the backbone."""

from typing import Dict, List, NamedTuple

from ..backends.reference import Program
from ..bundle.bundle import BundleContents
from ..bundle.plan import DOMAIN
from ..onnx_graph.joining import pruned, read_piece
from ..onnx_graph.model import Model
from ..records import Array
from .shapes import integers


class _Exit(NamedTuple):
    """program: cells (B, C, G, G) and the domain's tensors of these names -> features (B, F)."""

    program: Program
    tensors: List[str]


class ExitFeatures:
    """The exits of a bundle. Raises BundleError where a file of theirs is damaged."""

    def __init__(self, bundle: BundleContents) -> None:
        plan = bundle.manifest.plan
        read = {step.inputs[0]: int(step.inputs[0][1:]) for step in plan if step.exit}
        self._exits: Dict[int, _Exit] = {}
        for step in plan:
            block = read.get(step.outputs[0])
            if block is not None:
                model = _after_pooling(read_piece(step, bundle).model)
                names = [name[len(DOMAIN) :] for name in step.inputs[1:]]
                where = "%s: the exit behind block %d" % (bundle.path, block)
                self._exits[block] = _Exit(Program(model, where), names)

    def __call__(self, block: int, cells: Array, tensors: Dict[str, Array]) -> Array:
        """Features (B, F), float32, of the exit behind a block. cells: float32 (B, C, G, G), those of the block behind
        it. tensors: the domain's, as a bundle has them."""
        program, names = self._exits[block]
        features: Array = program.run([cells] + [tensors[name] for name in names])[0]
        return features


def _after_pooling(model: Model) -> Model:
    """The graph of an exit without the node that makes cells of full-size features, if it has one; it reads cells."""
    x = model.inputs[0].name
    pooling = [node for node in model.nodes if node.inputs[0] == x and node.attributes.get("strides", [1, 1]) != [1, 1]]
    if not pooling:
        return model
    (first,) = pooling
    cells, others = first.outputs[0], [node for node in model.nodes if node is not first]
    nodes = [node.replace([x if name == cells else name for name in node.inputs]) for node in others]
    height, width = integers(first, "strides", [1, 1])
    shape = model.inputs[0].shape
    cell_shape = shape[:2] + (int(shape[2] or 0) // height, int(shape[3] or 0) // width)
    return pruned(model.replace(nodes, model.weights, [model.inputs[0]._replace(shape=cell_shape)] + model.inputs[1:]))
