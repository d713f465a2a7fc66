"""What a domain learns, part by part: which numbers a part has, and how it is folded into a bundle's tensors.

Names, shapes and meaning are those of `toolchain/network/`, so a checkpoint does not tell who wrote it. A part has
`parameters`, which are trained, and fixed `statistics`, and reads the statistics of the adaptor it belongs to.
"""

from abc import ABC, abstractmethod
from typing import Dict, Optional, Tuple

import numpy as np

from ..records import Array
from ..training.randomness import EXITS, initial_down
from .folding import fold, taken_out, unfold

Tensors = Dict[str, Array]

BYPASS_STEP = 0.2  # a bypass's maps are this times their parameters; see toolchain/network/bypass.py


class Part(ABC):
    """Holds its numbers by short names. place: what their full names begin with, with a dot at its end; folded_place:
    the same in a bundle."""

    def __init__(
        self, place: str, parameters: Tensors, statistics: Optional[Tensors] = None, folded_place: Optional[str] = None
    ) -> None:
        self.place, self.parameters = place, parameters
        self.statistics: Tensors = {} if statistics is None else statistics
        self.folded_place = place if folded_place is None else folded_place

    @abstractmethod
    def fold(self) -> Tensors:
        """The bundle's tensors, by short names, float32."""

    @abstractmethod
    def take(self, tensors: Tensors) -> None:
        """The reverse of `fold`: take up the parameters that make these tensors with the statistics held. Raises
        KeyError where one is missing."""

    @abstractmethod
    def unfold(self, gradients: Tensors) -> Tensors:
        """Gradients for the bundle's tensors -> gradients for the parameters."""


class Adaptor(Part):
    """See toolchain/network/adaptor.py for the formulas."""

    def __init__(self, place: str, shapes: Dict[str, Tuple[int, ...]], seed: int, block: int) -> None:
        mid, cin = shapes["down"]
        cout = shapes["up"][0]
        parameters = {
            "down": initial_down(seed, block, mid, cin),
            "down_bias": _zeros(mid),
            "up": _zeros(cout, mid),
            "up_bias": _zeros(cout),
        }
        statistics = {"mean": _zeros(cin), "std": _ones(cin), "out_scale": _ones()}
        Part.__init__(self, place, parameters, statistics)

    @property
    def mean(self) -> Array:
        return self.statistics["mean"]

    @property
    def std(self) -> Array:
        return self.statistics["std"]

    @property
    def scale(self) -> Array:
        """s, a scalar."""
        return self.statistics["out_scale"]

    def fold(self) -> Tensors:
        own = self.parameters
        down, down_bias = fold(own["down"], own["down_bias"], self.mean, self.std)
        return {
            "down": down,
            "down_bias": down_bias,
            "up": self.scale * own["up"],
            "up_bias": self.scale * own["up_bias"],
        }

    def take(self, tensors: Tensors) -> None:
        down, bias = taken_out(tensors["down"], tensors["down_bias"], self.mean, self.std)
        up, up_bias = (tensors[name] / self.scale for name in ("up", "up_bias"))
        self.parameters = {"down": down, "down_bias": bias, "up": up, "up_bias": up_bias}

    def unfold(self, gradients: Tensors) -> Tensors:
        return {
            "down": unfold(gradients["down"], gradients["down_bias"], self.mean, self.std),
            "down_bias": gradients["down_bias"],
            "up": self.scale * gradients["up"],
            "up_bias": self.scale * gradients["up_bias"],
        }


class Head(Part):
    """A classifier on normalised features: the last one, or that of an exit."""

    def __init__(self, place: str, features: int, classes: int, folded_place: Optional[str] = None) -> None:
        parameters = {"weight": _zeros(classes, features), "bias": _zeros(classes)}
        Part.__init__(self, place, parameters, {"mean": _zeros(features), "std": _ones(features)}, folded_place)

    def fold(self) -> Tensors:
        weight = self.parameters["weight"] / self.statistics["std"]
        return {"mean": self.statistics["mean"], "weight": weight, "bias": self.parameters["bias"]}

    def take(self, tensors: Tensors) -> None:
        weight, moved = tensors["weight"], self.statistics["mean"] - tensors["mean"]
        bias = tensors["bias"] + weight.dot(moved)  # of features from which another mean is taken
        self.parameters = {"weight": weight * self.statistics["std"], "bias": bias}

    def unfold(self, gradients: Tensors) -> Tensors:
        return {"weight": gradients["weight"] / self.statistics["std"], "bias": gradients["bias"]}


class Exit(Part):
    """What the exit behind a block sees, without its classifier; `adaptor` is the next block's."""

    def __init__(self, place: str, shapes: Dict[str, Tuple[int, ...]], adaptor: Adaptor, seed: int, block: int) -> None:
        self.width, channels = shapes["down"]
        self.adaptor = adaptor
        down = initial_down(seed, block, self.width, 2 * channels, EXITS)
        Part.__init__(self, place, {"down": down, "down_bias": _zeros(self.width)})

    def fold(self) -> Tensors:
        mean, std = self.adaptor.mean, self.adaptor.std
        own, near = np.split(self.parameters["down"], 2, axis=1)
        down, bias = fold(own, self.parameters["down_bias"], mean, std)
        around, bias = fold(near, bias, mean, std)
        return {"down": down, "around": around, "down_bias": bias}

    def take(self, tensors: Tensors) -> None:
        own, bias = taken_out(tensors["down"], tensors["down_bias"], self.adaptor.mean, self.adaptor.std)
        near, bias = taken_out(tensors["around"], bias, self.adaptor.mean, self.adaptor.std)
        self.parameters = {"down": np.concatenate([own, near], axis=1), "down_bias": bias}

    def unfold(self, gradients: Tensors) -> Tensors:
        bias = gradients["down_bias"]
        both = [unfold(gradients[name], bias, self.adaptor.mean, self.adaptor.std) for name in ("down", "around")]
        return {"down": np.concatenate(both, axis=1), "down_bias": bias}


class Bypass(Part):
    """What stands in for a closed block; `adaptor` is the block's own."""

    def __init__(self, place: str, shapes: Dict[str, Tuple[int, ...]], adaptor: Adaptor) -> None:
        rank, channels = shapes["down"]
        cout = shapes["up"][0]
        self.adaptor = adaptor
        Part.__init__(
            self,
            place,
            {"down": _zeros(rank, 2 * channels), "up": _zeros(cout, rank), "up_bias": _zeros(cout)},
        )

    @property
    def _scale(self) -> Array:
        scale: Array = np.float32(BYPASS_STEP) * self.adaptor.scale
        return scale

    def fold(self) -> Tensors:
        mean, std = (np.tile(values, 2) for values in (self.adaptor.mean, self.adaptor.std))
        weight, bias = fold(np.float32(BYPASS_STEP) * self.parameters["down"], None, mean, std)
        down, around = np.split(weight, 2, axis=1)
        up, up_bias = (self._scale * self.parameters[name] for name in ("up", "up_bias"))
        return {"down": down, "around": around, "down_bias": bias, "up": up, "up_bias": up_bias}

    def take(self, tensors: Tensors) -> None:
        mean, std = (np.tile(values, 2) for values in (self.adaptor.mean, self.adaptor.std))
        both = np.concatenate([tensors["down"], tensors["around"]], axis=1)
        down, left = taken_out(both, tensors["down_bias"], mean, std)
        # There is no bias before the second map: what is left of the stored one goes through that into the last.
        up_bias = tensors["up_bias"] + tensors["up"].dot(left)
        self.parameters = {
            "down": down / np.float32(BYPASS_STEP),
            "up": tensors["up"] / self._scale,
            "up_bias": up_bias / self._scale,
        }

    def unfold(self, gradients: Tensors) -> Tensors:
        mean, std = (np.tile(values, 2) for values in (self.adaptor.mean, self.adaptor.std))
        both = np.concatenate([gradients["down"], gradients["around"]], axis=1)
        return {
            "down": np.float32(BYPASS_STEP) * unfold(both, gradients["down_bias"], mean, std),
            "up": self._scale * gradients["up"],
            "up_bias": self._scale * gradients["up_bias"],
        }


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def _ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)
