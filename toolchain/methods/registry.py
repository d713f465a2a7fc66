"""Training methods by name."""

from __future__ import annotations

from da3.toolchain.errors import TrainingError
from da3.toolchain.methods.base import Learner
from da3.toolchain.methods.bias import Bias
from da3.toolchain.methods.da3 import Da3
from da3.toolchain.methods.finetune import Finetune
from da3.toolchain.methods.linear import Linear
from da3.toolchain.methods.parallel import Parallel
from da3.toolchain.methods.piggyback import Piggyback
from da3.toolchain.methods.series import Series

METHODS: dict[str, type[Learner]] = {m.name: m for m in (Da3, Linear, Bias, Series, Parallel, Piggyback, Finetune)}


def method(name: str) -> type[Learner]:
    """The method called ``name``. Raises TrainingError listing the known ones."""
    if name not in METHODS:
        raise TrainingError(f"unknown method {name!r}; known are: {', '.join(METHODS)}")
    return METHODS[name]
