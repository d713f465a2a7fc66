"""The graph of a training step: a batch's slice in, the loss and the gradient of every tensor of a domain out.

The backbone is frozen, so its backward pass is another feed-forward network with the same kernels: the whole step is
one graph without control flow, which an inference engine runs. It is derived from the files of a bundle: the network
with the domain's tensors as inputs, the loss behind it, and the same backwards by a rule for each operator.
"""

from typing import Collection, List, NamedTuple, Tuple

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.plan import BATCH, DOMAIN, LOGITS
from ..errors import BundleError
from ..onnx_graph.model import Info, Model, Node
from .forward import Forward, forward
from .loss import add_loss
from .reverse import add_gradients

TARGET, SCALE, LOSS, GRADIENT = "target", "scale", "loss", "gradient:"
_FLOAT = np.dtype(np.float32)


class StepGraph(NamedTuple):
    """trained: the domain's tensors that get a gradient, named without "domain:".

    model's inputs, float32: image (batch, 3, S, S), normalised; target (batch, classes), the smoothed labels; scale
    (1,), 1 / photos of the whole batch, so that slices add up; domain:<name> for each of the domain's tensors that it
    reads. Its outputs: loss (1,), summed over the slice, times scale; logits (batch, classes) of the last answer as
    trained; gradient:<name> for each of `trained`, of the tensor's shape.
    """

    model: Model
    trained: Tuple[str, ...]


def derive_step(bundle: BundleContents, classes: int, closed: Collection[int] = ()) -> StepGraph:
    """The step of a domain with so many classes, which closes the blocks of these numbers.

    Raises BundleError if a file is damaged, or has an operator whose gradient is not known.
    """
    found = forward(bundle, classes, closed)
    out = found.graph
    # Fixed statistics are not trained.
    trained = tuple(name for name in found.tensors if not name.endswith(".mean"))
    ends = [Info(TARGET, _FLOAT, (BATCH, classes)), Info(SCALE, _FLOAT, (1,))]
    loss = add_loss(out, LOGITS, found.exits, TARGET, SCALE)
    gradients = add_gradients(out, loss.seeds, [DOMAIN + name for name in trained])
    out.rename(loss.value, LOSS)
    outputs = [Info(LOSS, _FLOAT, (1,)), Info(LOGITS, _FLOAT, (BATCH, classes))]
    for name in trained:
        out.rename(gradients[DOMAIN + name], GRADIENT + name)
        outputs.append(Info(GRADIENT + name, _FLOAT, found.tensors[name]))
    image = found.inputs()
    model = found.finished(image[:1] + ends + image[1:], outputs, "step")
    return StepGraph(model, trained)


def derive_observation(bundle: BundleContents, closed: Collection[int] = ()) -> Model:
    """What is looked at before the first step, and before blocks are closed.

    Inputs: image, and the domain's tensors. Outputs: p<i> (batch G G, C), the cell means that the adaptor of block i
    reads, a row for each cell; p<n>, n being the number of blocks, those of the last block's output on the last
    adaptor's grid; features (batch, F); e<i> (batch, F'), the features of the exit behind block i.
    """
    last, end = "x%d" % len(bundle.manifest.blocks), "features"
    seen = [name for step in bundle.manifest.plan if step.exit for name in step.inputs if not name.startswith(DOMAIN)]
    seen = [name for name in seen if name.startswith("e")]
    found = forward(bundle, 1, closed, [last, end] + seen)
    out = found.graph
    rows = _adaptor_rows(found, bundle.path)
    outputs: List[Info] = []
    for block, value in rows:
        out.nodes.append(Node("Identity", [value], ["p%d" % block]))
        outputs.append(Info("p%d" % block, _FLOAT, ("cells%d" % block, out.shapes[value][1])))
    side = _side(found, rows[-1][1])
    channels, height = out.shapes[last][1:3]
    pool = height // side
    cells = out.node("AveragePool", [last], last, kernel_shape=[pool, pool], strides=[pool, pool]) if pool > 1 else last
    cells = out.node("Transpose", [cells], last, perm=[0, 2, 3, 1])
    name = "p%d" % len(bundle.manifest.blocks)
    out.nodes.append(Node("Reshape", [cells, out.integers([-1, channels])], [name]))
    outputs.append(Info(name, _FLOAT, ("cells%d" % len(bundle.manifest.blocks), channels)))
    outputs += [Info(value, _FLOAT, (BATCH, out.shapes[value][1])) for value in [end] + seen]
    model = found.finished(found.inputs(), outputs, "observation")
    read = {name for node in model.nodes for name in node.inputs}
    model.inputs = [info for info in model.inputs if info.name in read]
    return model


def _adaptor_rows(found: Forward, path: str) -> List[Tuple[int, str]]:
    """For each adaptor, ascending: its block's number, and the value that it multiplies by its first matrix."""
    rows: List[Tuple[int, str]] = []
    for node in found.graph.nodes:
        parts = node.inputs[1].split(".") if node.op == "Gemm" else []
        if len(parts) == 3 and parts[0] == DOMAIN + "adaptors" and parts[2] == "down":
            rows.append((int(parts[1]), node.inputs[0]))
    if not rows:
        raise BundleError("%s: has no adaptors, so there is nothing to learn: export a da3 domain" % path)
    return sorted(rows)


def _side(found: Forward, rows: str) -> int:
    """The cells a side of the grid that rows were made of."""
    writers = {node.outputs[0]: node for node in found.graph.nodes}
    return found.graph.shapes[writers[rows].inputs[0]][1]
