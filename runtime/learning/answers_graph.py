"""The network of a domain as it answers, every exit's answer among its outputs, as a graph."""

from typing import Collection

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.plan import BATCH, LOGITS
from ..onnx_graph.model import Info, Model
from .forward import forward


def derive_answers(bundle: BundleContents, classes: int, closed: Collection[int] = ()) -> Model:
    """Inputs: image, and the domain's tensors. Outputs, (batch, classes) each: what each exit answers, and the last
    answer, as the trained domain gives it.

    Raises BundleError if a file is damaged.
    """
    found = forward(bundle, classes, closed, trained=False)
    outputs = [Info(name, np.dtype(np.float32), (BATCH, classes)) for name in found.exits + (LOGITS,)]
    return found.finished(found.inputs(), outputs, "answers")
