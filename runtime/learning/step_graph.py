"""The graph of a training step: a batch's slice in, the loss and the gradient of every tensor of a domain out.

The backbone is frozen, so its backward pass is another feed-forward network with the same kernels: the whole step is
one graph without control flow, which an inference engine runs. It is derived from the files of a bundle: the network
with the domain's tensors as inputs, the loss behind it, and the same backwards by a rule for each operator.
"""

from typing import Collection, NamedTuple, Tuple

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.plan import BATCH, DOMAIN, LOGITS
from ..onnx_graph.model import Info, Model
from .forward import forward
from .large_kernels import large_kernels
from .loss import add_loss
from .reverse import add_gradients

TARGET, SCALE, LOSS, GRADIENT = "target", "scale", "loss", "gradient:"
_FLOAT = np.dtype(np.float32)


class StepGraph(NamedTuple):
    """trained: the domain's tensors that get a gradient, named without "domain:".

    model's inputs, float32: image (batch, 3, S, S), normalised; target (batch, classes), the smoothed labels; scale
    (batch, 1), 1 / photos of the whole batch, so that slices add up, or 0 for a row that only fills a slice;
    domain:<name> for each of the domain's tensors that it reads. Its outputs: loss (1,), each photo's times its scale,
    summed over the slice; logits (batch, classes) of the last answer as trained; gradient:<name> for each of `trained`,
    of the tensor's shape.
    """

    model: Model
    trained: Tuple[str, ...]


def derive_step(bundle: BundleContents, classes: int, closed: Collection[int] = (), small: bool = False) -> StepGraph:
    """The step of a domain with so many classes, which closes the blocks of these numbers.

    small: in little memory, with more nodes: wide blocks are computed a group of channels at a time, and the largest
    kernels are held once, for which both passes have operators that read them as they are. Raises BundleError if a file
    is damaged, or has an operator whose gradient is not known.
    """
    found = forward(bundle, classes, closed, grouped=small)
    out = found.graph
    if small:
        out.held_once = large_kernels(out)
    loss = add_loss(out, LOGITS, found.exits, TARGET, SCALE)
    # Fixed statistics are not trained.
    trained = tuple(name for name in found.tensors if not name.endswith(".mean"))
    gradients = add_gradients(out, loss.seeds, [DOMAIN + name for name in trained])
    outputs = [Info(LOSS, _FLOAT, (1,)), Info(LOGITS, _FLOAT, (BATCH, classes))]
    for name in trained:
        out.rename(gradients[DOMAIN + name], GRADIENT + name)
        outputs.append(Info(GRADIENT + name, _FLOAT, found.tensors[name]))
    out.rename(loss.value, LOSS)
    image = found.inputs()
    inputs = image[:1] + [Info(TARGET, _FLOAT, (BATCH, classes)), Info(SCALE, _FLOAT, (BATCH, 1))] + image[1:]
    return StepGraph(found.finished(inputs, outputs, "step"), trained)
