"""Each file of a bundle, opened on ONNX Runtime by itself: nothing is joined."""

from __future__ import annotations

from typing import Any

import numpy as np

from da3.runtime.backends import open_session
from da3.runtime.bundle import BundleContents
from da3.runtime.records import Array


class SegmentSessions:
    """A session for each file, opened when it is first run."""

    def __init__(self, bundle: BundleContents):
        self._bundle = bundle
        self._opened: dict[str, Any] = {}

    def run(self, name: str, inputs: list[Array]) -> list[Array]:
        """The outputs of the segment called ``name``, positional as its inputs are."""
        segment = self._bundle.manifest.segments[name]
        if segment.file not in self._opened:
            self._opened[segment.file] = open_session(self._bundle.read(segment.file))
        named = {v.name: np.ascontiguousarray(i, dtype=np.float32) for v, i in zip(segment.inputs, inputs, strict=True)}
        outputs: list[Array] = self._opened[segment.file].run([v.name for v in segment.outputs], named)
        return outputs
