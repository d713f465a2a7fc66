"""A domain learnt without PyTorch: the graph of a training step, derived from a bundle's own files, and its trainer."""

from .learn import Learnt, learn
from .options import LearnOptions
from .reporter import TextReporter
from .step_graph import StepGraph, derive_loss, derive_observation, derive_step

__all__ = [
    "LearnOptions",
    "Learnt",
    "StepGraph",
    "TextReporter",
    "derive_loss",
    "derive_observation",
    "derive_step",
    "learn",
]
