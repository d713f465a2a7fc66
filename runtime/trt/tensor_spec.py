"""What an input or output of an engine is: its names, shape and type, and how it lies in the GPU's memory."""

from typing import NamedTuple, Tuple

import numpy as np

from ..bundle.plan import BATCH
from ..records import Shape
from .formats import nbytes

FULL, HALF = "float32", "float16"
_ALIGNED = 512  # bytes; what CUDA calls textureAlignment, and more than the 256 that tensors need


class TensorSpec(NamedTuple):
    """An input or output of an engine. tensor, value: what the engine and what the plan calls it; dtype: FULL or HALF;
    layout: see formats.py. No dimension is free but that of the images: what has one of the domain's size is computed
    on the host (see schedule/layout.py)."""

    tensor: str
    value: str
    shape: Shape
    dtype: str
    layout: str

    @property
    def has_rows(self) -> bool:
        """Does it have a row for each image?"""
        return self.shape[:1] == (BATCH,)


def sized_shape(shape: Shape, batch: int) -> Tuple[int, ...]:
    """A shape in numbers, for so many images."""
    return tuple(n if isinstance(n, int) else batch for n in shape)


def tensor_bytes(spec: TensorSpec, batch: int) -> int:
    """The bytes that a tensor takes for so many images."""
    return nbytes(sized_shape(spec.shape, batch), np.dtype(spec.dtype), spec.layout)


def aligned(size: int) -> int:
    """A number of bytes, rounded up so that a tensor may lie behind it."""
    return -(-size // _ALIGNED) * _ALIGNED
