"""A domain learnt without PyTorch: the graph of a training step, derived from a bundle's own files, and its trainer."""

from .budget import TRIAL_EPOCHS, fit_budget
from .going import go
from .learn import Learnt, learn
from .observation import derive_observation
from .on_cpu import CpuRunning
from .options import LearnOptions, check_keep
from .reporter import TextReporter
from .runner import GraphRunner
from .running import Running
from .starting import find_start
from .step_graph import StepGraph, derive_step
from .trainee import GraphTrainee

__all__ = [
    "TRIAL_EPOCHS",
    "CpuRunning",
    "GraphRunner",
    "GraphTrainee",
    "LearnOptions",
    "Learnt",
    "Running",
    "StepGraph",
    "TextReporter",
    "check_keep",
    "derive_observation",
    "derive_step",
    "find_start",
    "fit_budget",
    "go",
    "learn",
]
