"""AdamW in numpy, by the recipe's formulas and in PyTorch's order, with the state that checkpoints have."""

import math
from typing import Dict

import numpy as np

from ..errors import CheckpointError
from ..records import Array
from ..training.recipe import BETAS, EPSILON, WEIGHT_DECAY


class AdamW:
    """Updates arrays in place."""

    def __init__(self) -> None:
        self._state: Dict[int, Dict[str, Array]] = {}  # by the parameter's place; none before its first gradient

    def step(self, trained: Dict[str, Array], gradients: Dict[str, Array], lr: float) -> None:
        """Update what has a gradient. trained: float32 arrays, whose order gives their places."""
        for place, (name, weight) in enumerate(trained.items()):
            if name in gradients:
                if place not in self._state:
                    self._state[place] = _fresh(weight)
                _update(weight, gradients[name], self._state[place], lr)

    def state(self) -> Dict[str, Array]:
        """`i.step`, `i.exp_avg` and `i.exp_avg_sq` of the parameter in place i. The arrays are those in use."""
        return {"%d.%s" % (i, name): array for i, held in self._state.items() for name, array in held.items()}

    def load(self, state: Dict[str, Array], trained: Dict[str, Array], path: str) -> None:
        """Go on from a `state`, of the file at `path`. Raises CheckpointError where it is another model's."""
        shapes = [array.shape for array in trained.values()]
        found: Dict[int, Dict[str, Array]] = {}
        for key, array in state.items():
            place, name = key.split(".", 1)
            fits = place.isdigit() and int(place) < len(shapes) and array.shape in ((), shapes[int(place)])
            if not fits or name not in ("step", "exp_avg", "exp_avg_sq"):
                raise CheckpointError("%s holds the optimiser of another model: use --overwrite" % path)
            found.setdefault(int(place), {})[name] = np.array(array, dtype=np.float32)
        if any(len(held) != 3 for held in found.values()):
            raise CheckpointError("%s holds half an optimiser: use --overwrite" % path)
        self._state = found


def _fresh(weight: Array) -> Dict[str, Array]:
    return {"step": np.zeros((), np.float32), "exp_avg": np.zeros_like(weight), "exp_avg_sq": np.zeros_like(weight)}


def _update(weight: Array, gradient: Array, held: Dict[str, Array], lr: float) -> None:
    first, second = BETAS
    held["step"][...] += 1
    step = float(held["step"])
    weight *= np.float32(1 - lr * WEIGHT_DECAY)
    mean, square = held["exp_avg"], held["exp_avg_sq"]
    mean += np.float32(1 - first) * (gradient - mean)
    square *= np.float32(second)
    square += np.float32(1 - second) * gradient * gradient
    spread = np.sqrt(square)
    spread /= np.float32(math.sqrt(1 - second**step))
    spread += np.float32(EPSILON)
    np.divide(mean, spread, out=spread)
    spread *= np.float32(lr / (1 - first**step))
    weight -= spread
