"""AdamW as PyTorch computes it, without PyTorch's optimiser classes.

Making a ``torch.optim.Optimizer`` imports PyTorch's compiler and sympy with it: 77 MB and three seconds in every
training process, which compiles nothing. The function below them does the arithmetic (Loshchilov, Hutter; arXiv
1711.05101), so weights and state are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw


class AdamW:
    """What training uses of ``torch.optim.AdamW``, with the same names and the same ``state_dict``."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self._state: dict[int, dict[str, Tensor]] = {}  # by the parameter's place; none before its first gradient

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        group = self.param_groups[0]
        used = [(i, parameter) for i, parameter in enumerate(group["params"]) if parameter.grad is not None]
        for i, parameter in used:
            if i not in self._state:
                self._state[i] = _fresh(parameter)
        states = [self._state[i] for i, _ in used]
        if used:
            adamw(
                [parameter for _, parameter in used],
                [parameter.grad for _, parameter in used],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=group["lr"],
                weight_decay=self.weight_decay,
                eps=self.eps,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """{"state": tensors by the parameter's place, "param_groups": ...}; the tensors are those in use, no copies."""
        group = self.param_groups[0]
        return {"state": dict(self._state), "param_groups": [{**group, "params": list(range(len(group["params"])))}]}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Go on from the state of an equal list of parameters."""
        self.param_groups[0]["lr"] = found["param_groups"][0]["lr"]
        self._state = {i: dict(state) for i, state in found["state"].items()}


def _fresh(parameter: Parameter) -> dict[str, Tensor]:
    return {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }
