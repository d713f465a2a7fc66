"""What a training run does where its user says nothing."""

from typing import NamedTuple

from .recipe import LABEL_SMOOTHING


class CommonOptions(NamedTuple):
    """The options that have a default. keep: share of the block FLOPs to run on average."""

    method: str = "da3"
    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    epochs: int = 15
    keep: float = 1.0
    seed: int = 0
    flip: bool = True
    label_smoothing: float = LABEL_SMOOTHING


DEFAULTS = CommonOptions()
