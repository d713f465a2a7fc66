"""A domain learnt by an inference engine: graphs of a training step derived from a bundle, and what runs them."""

from .learn import Learnt, learn
from .options import LearnOptions
from .reporter import TextReporter

__all__ = ["LearnOptions", "Learnt", "TextReporter", "learn"]
