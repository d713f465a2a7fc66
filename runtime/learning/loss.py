"""The loss of the recipe and where its gradient begins, as nodes.

With p = softmax(l), q_k = softmax(l_k) and K exits, the loss of a photo with the target t is

    -sum(t log p) + EXIT_WEIGHT sum over k of ( MATCH sum(p log p) - sum(m log q_k) )       m = (1 - MATCH) t + MATCH p

which is the recipe's, since cross-entropies with two targets are one with their mean. As l gets no gradient through m,

    dl = p - t                          dl_k = EXIT_WEIGHT (q_k - m)
"""

from typing import Dict, NamedTuple, Sequence

import numpy as np

from ..training.recipe import EXIT_WEIGHT, MATCH
from .writing import GraphWriter


class Loss(NamedTuple):
    """The name of the loss (1,), and of its gradient by each of the answers."""

    value: str
    seeds: Dict[str, str]


def add_loss(out: GraphWriter, last: str, exits: Sequence[str], target: str, scale: str) -> Loss:
    """Append the loss of logits (B, classes), `last` and of the `exits`: that of each photo times its `scale`, summed.

    target: (B, classes), rows of sum 1. scale: (B, 1); where it is 0, a row has no share in the loss or in a gradient.
    """

    def times(x: str, y: str) -> str:
        return out.node("Mul", [x, y], "loss")

    def plus(x: str, y: str) -> str:
        return out.node("Add", [x, y], "loss")

    log_p = out.node("LogSoftmax", [last], "loss", axis=1)
    p = out.node("Softmax", [last], "loss", axis=1)
    gain = times(log_p, target)  # minus the loss, by class
    seeds = {last: times(out.node("Sub", [p, target], "d/" + last), scale)}
    if exits:
        mixed = plus(times(target, out.number(1 - MATCH)), times(p, out.number(MATCH)))
        entropy = times(times(p, log_p), out.number(EXIT_WEIGHT * MATCH * len(exits)))
        gain = out.node("Sub", [gain, entropy], "loss")
        weight = out.node("Mul", [scale, out.number(EXIT_WEIGHT)], "loss")
        for answer in exits:
            log_q = out.node("LogSoftmax", [answer], "loss", axis=1)
            gain = plus(gain, times(times(log_q, mixed), out.number(EXIT_WEIGHT)))
            q = out.node("Softmax", [answer], "loss", axis=1)
            seeds[answer] = times(out.node("Sub", [q, mixed], "d/" + answer), weight)
    total = out.node("ReduceSum", [times(gain, scale), out.integers([0, 1])], "loss", keepdims=0)
    return Loss(times(total, out.constant("minus_one", np.array([-1.0], np.float32))), seeds)
