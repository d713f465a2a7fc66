"""The network of a domain with an input for each block that can be closed, which says whether it is: no gradients.

With it is measured what closing each block would cost, and what its bypass should add, without another graph for each.
"""

from typing import Dict, List

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS, domain_inputs, exit_steps, with_skipped
from ..onnx_graph.joining import Piece, joined, pruned, read_piece
from ..onnx_graph.model import Info, Model, Node, unused_name
from ..onnx_graph.whole import without_repeats
from ..records import Segment, Step, Value
from .fixed_batch import rows_of
from .forward import as_trained

RUN = "run:"  # input of a block, (1,): 1 where it runs, 0 where it is closed
PART = (1,)


def derive_forced(bundle: Bundle, classes: int) -> Model:
    """Inputs: image, the domain's tensors, those of all bypasses too, and run:<i> of each closable block. Its
    outputs: logits and each exit's answer, as trained; for each block that has a bypass p<i> (batch G G, C), the cells
    that its adaptor reads, and y<i> (batch, C', G, G), the means of its output over the same cells.

    Raises BundleError if a file is damaged or is not what the manifest says of it.
    """
    manifest = bundle.manifest
    exits = tuple(step.outputs[0] for step in exit_steps(manifest.plan))
    taken = {name for step in with_skipped(manifest.plan) for name in step.inputs + step.outputs}
    pieces: List[Piece] = []
    inputs: Dict[str, Value] = {}
    for step in manifest.plan:
        if step.skip is None:
            pieces.append(as_trained(read_piece(step, bundle), bool(exits), bundle.path))
            continue
        both = [
            one._replace(outputs=tuple(unused_name(name + end, taken) for name in one.outputs))
            for one, end in ((step.always, "/run"), (step.skipped, "/closed"))
        ]
        pieces += [read_piece(one, bundle) for one in both]
        pieces.append(_choice(step, both, pieces[-1]))
        inputs[RUN + str(step.block)] = Value(RUN + str(step.block), PART)
    tensors = domain_inputs(manifest.plan, manifest.segments)
    given = [Value(IMAGE, manifest.segments[manifest.plan[0].segment].inputs[0].shape)]
    for name, shapes in tensors.items():
        given.append(Value(DOMAIN + name, tuple(classes if isinstance(n, str) else n for n in shapes[0])))
    given += inputs.values()
    written = {name: value for piece in pieces for name, value in zip(piece.step.outputs, piece.segment.outputs)}
    blocks = {step.block: step for step in manifest.plan if step.block is not None}
    fitted = tuple(i for i in sorted(blocks) if "substitutes.%d.down" % i in tensors)
    wanted = [Value(name, (BATCH, classes)) for name in exits + (LOGITS,)]
    ends = [Value(blocks[i].outputs[0], written[blocks[i].outputs[0]].shape) for i in fitted]
    model = joined(pieces, Segment("forced", "", tuple(given), tuple(wanted + ends)), bundle.path)
    model.outputs = model.outputs[: len(wanted)]
    for i, end in zip(fitted, ends):
        _add_cells(model, i, end, int(written["a%d" % i].shape[2]))
    return pruned(without_repeats(model))


def _choice(step: Step, both: List[Step], closed: Piece) -> Piece:
    """y = g run + (1 - g) closed, for g of 0 and 1 the one or the other."""
    nodes, values = [Node("Sub", ["one", "g"], ["h"])], [Value("g", PART)]
    outputs: List[Value] = []
    for number, value in enumerate(closed.segment.outputs):
        one, other, parts, chosen = (name + str(number) for name in ("run", "closed", "part", "chosen"))
        nodes += [
            Node("Mul", [one, "g"], [parts + "r"]),
            Node("Mul", [other, "h"], [parts + "c"]),
            Node("Add", [parts + "r", parts + "c"], [chosen]),
        ]
        values += [Value(one, value.shape), Value(other, value.shape)]
        outputs.append(Value(chosen, value.shape))
    names = (RUN + str(step.block),) + tuple(n for pair in zip(both[0].outputs, both[1].outputs) for n in pair)
    infos = [[Info(v.name, np.dtype(np.float32), v.shape) for v in ends] for ends in (values, outputs)]
    model = Model(nodes, {"one": np.ones(1, np.float32)}, infos[0], infos[1], closed.model.opsets)
    model.ir_version = closed.model.ir_version
    segment = Segment("choice", "", tuple(values), tuple(outputs))
    return Piece(Step("choice", names, step.outputs), segment, model)


def _add_cells(model: Model, block: int, end: Value, side: int) -> None:
    """The outputs p<i> and y<i>. end: the block's output; side: the cells a side of what its adaptor adds."""
    channels, height = end.shape[1:3]
    pool = int(height) // side
    attributes = {"kernel_shape": [pool, pool], "strides": [pool, pool]}
    name = "y%d" % block
    means = Node("AveragePool", [end.name], [name], attributes) if pool > 1 else Node("Identity", [end.name], [name])
    read = next(n.inputs[0] for n in model.nodes if n.inputs[1:2] == [DOMAIN + "adaptors.%d.down" % block])
    model.nodes += [means, Node("Identity", [read], ["p%d" % block])]
    kind = np.dtype(np.float32)
    model.outputs.append(Info("p%d" % block, kind, (rows_of(side), channels)))
    model.outputs.append(Info(name, kind, (BATCH, channels, side, side)))
