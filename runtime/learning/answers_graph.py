"""The network of a domain as it answers, every exit's answer among its outputs, as a graph."""

from typing import Collection

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.familiar import seen_values
from ..bundle.plan import BATCH, LOGITS
from ..onnx_graph.model import Info, Model
from .forward import forward


def derive_answers(bundle: BundleContents, classes: int, closed: Collection[int] = ()) -> Model:
    """Inputs: image, and the domain's tensors. Outputs: what each exit answers, and the last answer, as the trained
    domain gives it, (batch, classes) each; and what the classifiers read for them, (batch, F) each.

    Raises BundleError if a file is damaged.
    """
    early, last = seen_values(bundle.manifest)
    read = list(dict.fromkeys(early + (last,)))
    found = forward(bundle, classes, closed, read, trained=False)
    widths = {
        name: value.shape[1]
        for step in bundle.manifest.plan
        for name, value in zip(step.outputs, bundle.manifest.segments[step.segment].outputs)
        if name in read
    }
    outputs = [Info(name, np.dtype(np.float32), (BATCH, classes)) for name in found.exits + (LOGITS,)]
    outputs += [Info(name, np.dtype(np.float32), (BATCH, widths[name])) for name in read]
    return found.finished(found.inputs(), outputs, "answers")
