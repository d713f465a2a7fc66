"""What goes into a served domain and what comes out, by name, type and shape: said once, for config.pbtxt and for the
model. Before every shape stands the number of pictures of a request, B.

    picture        BYTES (B, 1)               a picture file: JPEG, PNG and what else `run-engine` reads
    pixels         UINT8 (B, H, W, 3)         RGB, in the place of `picture`
    label          BYTES (B, K)               the K most probable classes, best first; K is the parameter top_k, or 1
    index          INT32 (B, K)               their numbers
    probability    FP32  (B, K)               their probabilities
    probabilities  FP32  (B, classes)         those of all classes
    logits         FP32  (B, classes)         of the exit where the picture left
    exit           INT32 (B, 1)               the number of that exit, counted from 0; -1 where it ran to the end
    blocks_skipped INT32 (B, 1)               how many blocks of the backbone did not run
    flops_share    FP32  (B, 1)               share of the blocks' operations that ran
    known          BOOL  (B, 1)               is it one of the domain's pictures? only of domains that can tell
    familiarity    FP32  (B, 1)               share of the domain's own photos that look as strange, or stranger
"""

from typing import List, NamedTuple, Tuple

import numpy as np

from ..records import Array, Prediction


class Tensor(NamedTuple):
    """One input or output as Triton's configuration has it; -1 is a free dimension."""

    name: str
    type: str
    dims: Tuple[int, ...]


PICTURE = Tensor("picture", "TYPE_STRING", (1,))
PIXELS = Tensor("pixels", "TYPE_UINT8", (-1, -1, 3))
OUTPUTS = (
    Tensor("label", "TYPE_STRING", (-1,)),
    Tensor("index", "TYPE_INT32", (-1,)),
    Tensor("probability", "TYPE_FP32", (-1,)),
    Tensor("probabilities", "TYPE_FP32", (-1,)),
    Tensor("logits", "TYPE_FP32", (-1,)),
    Tensor("exit", "TYPE_INT32", (1,)),
    Tensor("blocks_skipped", "TYPE_INT32", (1,)),
    Tensor("flops_share", "TYPE_FP32", (1,)),
)
FAMILIAR_OUTPUTS = (Tensor("known", "TYPE_BOOL", (1,)), Tensor("familiarity", "TYPE_FP32", (1,)))
OF_CLASSES = ("probabilities", "logits")  # outputs with an entry for each class


def output_values(name: str, predictions: List[Prediction], top_k: int) -> Array:
    """The value of one output for the pictures of a request, as this file's head has it; names as bytes objects."""
    if name in ("label", "index", "probability"):
        best = np.stack([np.argsort(-p.probabilities, kind="mergesort")[:top_k] for p in predictions])
        if name == "index":
            return best.astype(np.int32)
        if name == "probability":
            return np.stack([p.probabilities[row] for p, row in zip(predictions, best)]).astype(np.float32)
        rows = [[p.classes[i].encode("utf-8") for i in row] for p, row in zip(predictions, best)]
        labels = np.empty(best.shape, np.object_)
        for i, row in enumerate(rows):
            labels[i, :] = row
        return labels
    if name in OF_CLASSES:
        return np.stack([getattr(p, name) for p in predictions]).astype(np.float32)
    if name == "exit":
        numbers = [-1 if p.exit is None else p.exit for p in predictions]
        return np.array(numbers, np.int32)[:, None]
    if name == "blocks_skipped":
        return np.array([p.blocks_skipped for p in predictions], np.int32)[:, None]
    if name == "known":
        return np.array([bool(p.known) for p in predictions])[:, None]
    if name == "familiarity":
        return np.array([np.nan if p.familiarity is None else p.familiarity for p in predictions], np.float32)[:, None]
    assert name == "flops_share", name
    return np.array([p.flops_share for p in predictions], np.float32)[:, None]
