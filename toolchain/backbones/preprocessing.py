"""How photos reach a backbone, in training, export and on the device alike."""

from __future__ import annotations

from da3.runtime.images import Preprocessing
from da3.toolchain.backbones.weights import WeightsFile

CROP = 0.875  # share of the resized shorter side that evaluation looks at, as the backbones were trained


def preprocessing_of(size: int, weights: WeightsFile) -> Preprocessing:
    """The preprocessing of a backbone with ``weights`` at ``size`` pixels."""
    return Preprocessing(size, CROP, weights.mean, weights.std)
