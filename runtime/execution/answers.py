"""From logits to named predictions."""

from typing import List, Sequence

import numpy as np

from ..errors import ImageError
from ..records import BatchResult, Block, Prediction
from ..schedule.flops import flops_share


def name_answers(result: BatchResult, blocks: Sequence[Block]) -> List[Prediction]:
    """One Prediction per image: the softmax of its logits, and the most probable class.

    Raises ImageError if the network answered NaN or infinity.
    """
    logits, ran, domain = result.logits, result.blocks, result.domain
    if not np.isfinite(logits).all():
        raise ImageError("the network answered NaN or infinity: look for NaN in the images")
    shares = flops_share(blocks, ran)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    predictions: List[Prediction] = []
    for i in range(logits.shape[0]):
        index, count = int(logits[i].argmax()), int(ran[i].sum())
        predictions.append(
            Prediction(
                label=domain.classes[index],
                index=index,
                probability=float(probabilities[i, index]),
                probabilities=probabilities[i],
                logits=logits[i],
                blocks_run=count,
                blocks_skipped=ran.shape[1] - count,
                blocks=tuple(bool(b) for b in ran[i]),
                flops_share=float(shares[i]),
                domain=domain.name,
                classes=domain.classes,
            )
        )
    return predictions
