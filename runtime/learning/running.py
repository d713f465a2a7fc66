"""How a run runs its graphs, whatever runs them."""

from abc import ABC, abstractmethod
from typing import Sequence, Tuple

from ..bundle.bundle import Bundle
from .answering import Answers, GraphAnswers
from .making import ANSWERS
from .runner import GraphRunner

BACKENDS = ("onnxruntime", "cuda", "tensorrt", "reference")
FULL, HALF = "fp32", "fp16"
PRECISIONS = (FULL, HALF)


class Running(ABC):
    """Opens graphs for one run; close it at its end.

    usual_slice: photos that are run at once where nobody says. loss_scale: what the loss is multiplied by, so that
    small gradients are not lost in the precision that they are computed in. lanes: how many parts of a slice a training
    step's runner is to be given to run side by side.
    """

    usual_slice = 1
    lanes = 1
    loss_scale = 1.0

    @abstractmethod
    def open(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> GraphRunner:
        """A graph, ready; see `derive` for its kind. Raises BundleError or BackendError."""

    def make(self, kinds: Sequence[str], bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> None:
        """Make what takes long to make of these graphs, so that it is there, or known to fail, when they are opened.
        Default: nothing takes long."""

    def answers(self, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> Answers:
        """What gives a domain's answers, ready. Raises BundleError or BackendError."""
        return GraphAnswers(bundle.manifest, self.open(ANSWERS, bundle, classes, closed))

    @property
    def device_bytes(self) -> int:
        """The most memory of a GPU that was held at one time, as far as it is known here."""
        return 0

    def close(self) -> None:
        """Free what outlives a runner."""
