"""Pictures: which files are some, how they are decoded, and how they become the network's input."""

from .decode import decode
from .inputs import Batch, Images, Input, as_batch, batches, in_batches, read_inputs
from .npy import NpyFile
from .paths import evenly, expand, is_image_name, list_labelled
from .preprocess import Preprocessing

__all__ = [
    "Batch",
    "Images",
    "Input",
    "NpyFile",
    "Preprocessing",
    "as_batch",
    "batches",
    "decode",
    "evenly",
    "expand",
    "in_batches",
    "is_image_name",
    "list_labelled",
    "read_inputs",
]
