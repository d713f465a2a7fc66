"""From logits to named predictions."""

from typing import List, Optional

import numpy as np

from ..bundle.manifest import Manifest
from ..errors import BackendError
from ..familiarity import ask, is_known
from ..records import BatchResult, Prediction
from ..schedule.flops import result_shares


def name_answers(result: BatchResult, manifest: Manifest, unknown_below: Optional[float] = None) -> List[Prediction]:
    """One Prediction per image: the softmax of its logits, at the temperature of the exit where it left, the most
    probable class, and whether it is one of the domain's images at all. unknown_below: in the place of its limit."""
    logits, ran, domain = result.logits, result.blocks, result.domain
    if logits.shape[1] != len(domain.classes):
        raise BackendError(
            "domain %s has %d classes, and %d numbers came as an answer: export it again"
            % (domain.name, len(domain.classes), logits.shape[1])
        )
    shares = result_shares(manifest, result)
    temperatures = [rule.temperature for rule in domain.exits]
    exits = [int(number) if number < len(temperatures) else None for number in result.left]
    scale = np.array([1 / (domain.temperature if i is None else temperatures[i]) for i in exits], np.float32)
    exp = np.exp((logits - logits.max(axis=1, keepdims=True)) * scale[:, None])
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    familiar = domain.familiar
    shares_alike = None if familiar is None or not result.seen else ask(familiar, result.left, result.seen, logits)
    predictions: List[Prediction] = []
    for i in range(logits.shape[0]):
        index, count = int(logits[i].argmax()), int(ran[i].sum())
        alike = None if shares_alike is None else shares_alike[i]
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
                exit=exits[i],
                known=None if alike is None or familiar is None else is_known(familiar, alike, unknown_below),
                familiarity=alike,
            )
        )
    return predictions
