"""The fixed statistics of a domain, measured once, before its first step, on what the untrained network computes."""

from typing import Callable, Dict, Iterable, Tuple

import numpy as np

from ..records import Array
from .parameters import Parameters

Observe = Callable[[Array, Dict[str, Array]], Dict[str, Array]]  # images, domain tensors -> the observation's outputs
Images = Callable[[], Iterable[Array]]  # float32 (B, 3, S, S), the same ones at every call


def fit_normalisation(parameters: Parameters, observe: Observe, images: Images) -> None:
    """Set what adaptors, exits and head normalise by.

    Exits come after the adaptors, by whose statistics they normalise what they read.
    """
    blocks = sorted(parameters.adaptors)
    names = ["p%d" % i for i in blocks + [blocks[-1] + 1]] + ["features"]
    found = _measured(parameters, observe, images, names)
    for i in blocks:
        (mean, std), (_, out) = found["p%d" % i], found["p%d" % (i + 1)]
        scale = np.float32(_lower_median(out))
        parameters.adaptors[i].statistics = {"mean": mean, "std": std, "out_scale": np.array(scale)}
    mean, std = found["features"]
    parameters.head.statistics = {"mean": mean, "std": std}
    if parameters.exits:
        found = _measured(parameters, observe, images, ["e%d" % i for i in parameters.exits])
        for i, head in parameters.exit_heads.items():
            mean, std = found["e%d" % i]
            head.statistics = {"mean": mean, "std": std}


class _Moments:
    """Sums of rows (N, C) and of their squares, float64."""

    def __init__(self) -> None:
        self.sum = self.squares = np.float64(0)
        self.count = 0

    def add(self, rows: Array) -> None:
        wide = rows.astype(np.float64)
        self.sum = self.sum + wide.sum(axis=0)
        self.squares = self.squares + np.square(wide).sum(axis=0)
        self.count += len(rows)


def _measured(
    parameters: Parameters, observe: Observe, images: Images, names: Iterable[str]
) -> Dict[str, Tuple[Array, Array]]:
    """Mean and deviation to normalise by, for each of the named outputs."""
    moments = {name: _Moments() for name in names}
    tensors = parameters.fold()
    for batch in images():
        found = observe(batch, tensors)
        for name, held in moments.items():
            held.add(found[name])
    return {name: normalisers(held.sum / held.count, held.squares / held.count) for name, held in moments.items()}


def normalisers(mean: Array, mean_square: Array) -> Tuple[Array, Array]:
    """Mean and standard deviation, float32 (C,), to normalise by; both given are float64.

    A channel that hardly varies on the training photos would be blown up by whatever moves it later: its deviation
    is taken as no less than 5 % of the typical channel's, and 2 % of the layer's root mean square.
    """
    std = np.sqrt(np.maximum(mean_square - np.square(mean), 0))
    floor = max(0.05 * _lower_median(std), 0.02 * float(np.sqrt(mean_square.mean())), 1e-6)
    return mean.astype(np.float32), np.maximum(std, floor).astype(np.float32)


def _lower_median(values: Array) -> float:
    """The middle one, the lower of two."""
    return float(np.sort(values)[(len(values) - 1) // 2])
