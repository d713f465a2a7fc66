"""A domain is learnt without PyTorch: the graph of a training step, derived from a bundle's own files."""

from .step_graph import StepGraph, derive_loss, derive_observation, derive_step

__all__ = ["StepGraph", "derive_loss", "derive_observation", "derive_step"]
