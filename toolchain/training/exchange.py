"""What processes that train together tell each other in a step: the gradients of what is trained, and how it went."""

from __future__ import annotations

import torch

from da3.runtime.training import StepResult
from da3.toolchain.methods import Learner


def exchanged(learner: Learner, result: StepResult) -> StepResult:
    """The whole batch's result, and its gradients in every parameter's ``grad``, of the parts that the processes have.

    All of it goes over as one buffer, which the gradients then are views of. A parameter has a gradient where it has
    one in any process: the bypass of an open block has none, and a process without a photo none at all.
    """
    parameters = learner.parameters()
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    given = own[0].new_tensor([p.grad is not None for p in parameters])
    facts = own[0].new_tensor([result.loss, result.correct])
    *gradients, given, facts = learner.total([*own, given, facts])
    for parameter, gradient, there in zip(parameters, gradients, given.tolist(), strict=True):
        parameter.grad = gradient if there else None
    loss, correct = facts.tolist()
    return result._replace(loss=loss, correct=round(correct))
