"""Domains served by NVIDIA's Triton Inference Server: the model repository, and what Triton runs in it.

Triton's Python backend starts a process for every model. Here there is one such model, the runtime, and every domain is
an *ensemble* of that one step, which is an entry in Triton's own tables and no process: a hundred domains cost their
weights. An ensemble tells the runtime which domain it is by the names of the outputs that it asks for (numbers.py).
"""

from .layout import RUNTIME, Settings
from .model import ServedModel
from .repository import Packed, Repository

__all__ = ["RUNTIME", "Packed", "Repository", "ServedModel", "Settings"]
