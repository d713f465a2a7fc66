"""Answers over several frames: what flickers from frame to frame is averaged away."""

from collections import deque
from typing import Deque, Optional, Tuple

from ..errors import StreamError
from ..records import Array, Prediction


class Smoother:
    """The mean of the probabilities of the last `frames` frames. It begins anew where the domain changes, and where
    it is told of another `scene`: after a stream was away, nobody knows what happened meanwhile."""

    def __init__(self, frames: int) -> None:
        if frames < 1:
            raise StreamError("smooth over at least 1 frame, not %d" % frames)
        self._last: Deque[Array] = deque(maxlen=frames)
        self._of: Optional[Tuple[str, Tuple[str, ...], int]] = None

    def __call__(self, prediction: Prediction, scene: int = 0) -> Prediction:
        """The prediction with label, index, probability and probabilities (classes,) of the mean; the rest is that of
        this frame alone."""
        of = (prediction.domain, prediction.classes, scene)
        if of != self._of:
            self._of = of
            self._last.clear()
        self._last.append(prediction.probabilities)
        if len(self._last) == 1:
            return prediction
        mean = sum(self._last) / prediction.probabilities.dtype.type(len(self._last))
        index = int(mean.argmax())
        return prediction._replace(
            label=prediction.classes[index], index=index, probability=float(mean[index]), probabilities=mean
        )
