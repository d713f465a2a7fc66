"""What a run trains, whatever computes it: the one interface between the loop and PyTorch, or a graph.

A step is `revise`, `gradients`, `update`; the loop looks at the loss between the last two, so a step that diverged
changes nothing.
"""

from abc import ABC, abstractmethod
from typing import Callable, Dict, Generator, Iterator, NamedTuple, Sequence, Tuple

from ..records import Array
from .checkpoint import Checkpoint
from .loading import Batch

# A number -> training photos without end, in an order that belongs to the number.
Photos = Callable[[int], Generator[Batch, None, None]]
# Some training photos, uint8 (B, S, S, 3), from the start at every call.
Pixels = Callable[[], Iterator[Array]]
# uint8 (B, S, S, 3) -> float32 (B, exits + 1, classes): every exit's logits, then those of the last answer.
Predict = Callable[[Array], Array]
# uint8 (B, S, S, 3) -> what classifiers read and the last of them answers, by the plan's names: float32 (B, ...) each.
See = Callable[[Array], Dict[str, Array]]


class StepResult(NamedTuple):
    """One batch: its mean loss, how many last answers were right, and the share of block FLOPs that they took.

    skipped: the gradients are more than the precision holds that they were computed in, so there is to be no update.
    The loss of such a batch is that of a guess, log(classes), where the precision does not hold it either.
    """

    loss: float
    correct: int
    share: float
    skipped: bool = False


class Trainee(ABC):
    """One domain being learnt. warm_up: share of all steps during which the learning rate rises."""

    warm_up: float

    @property
    @abstractmethod
    def micro_batch(self) -> int:
        """Photos that are run at once."""

    @abstractmethod
    def prepare(self, photos: Pixels) -> None:
        """Look at some training photos before the first step."""

    def revise(self, progress: float, photos: Photos) -> None:
        """Look at training photos again before the step at `progress` (0 to 1). Default: nothing to do.

        Taking a batch may raise; what was found by then is lost, and the same call is made again later.
        """

    @abstractmethod
    def gradients(self, batch: Batch, progress: float, done: int) -> StepResult:
        """Forward and backward of the batch that follows `done` steps."""

    @abstractmethod
    def update(self, lr: float) -> None:
        """The optimiser's step with the gradients of the last batch."""

    @abstractmethod
    def predict(self) -> Predict:
        """Get ready to answer as deployed; what is returned is called until `predicted`."""

    def predicted(self) -> None:
        """All answers are given, or none is wanted any more."""

    def places(self) -> Sequence[Tuple[str, ...]]:
        """By what it is told at each exit and at the end whether a picture is one of the domain's, see
        `familiarity.wanted_values`. Default: nothing, it is not told."""
        return ()

    def see(self, found: Checkpoint) -> See:
        """Get ready to give the features of a checkpoint of this run, in the place of what was trained last: there is
        no step after this. What is returned is called until `predicted`. For a trainee that has `places`."""
        raise NotImplementedError

    @abstractmethod
    def costs(self) -> Array:
        """float64 (exits + 1,): the share of the block FLOPs that each answer takes."""

    def is_final(self, progress: float) -> bool:
        """Whether what is trained at `progress` already meets the task, so it may be kept as the best."""
        return True

    @abstractmethod
    def model(self) -> Dict[str, Array]:
        """What the domain has learnt, by the names that checkpoints have; see `checkpoint`."""

    @abstractmethod
    def optimizer(self) -> Dict[str, Array]:
        """The optimiser's state: of the parameter in place i its `i.step`, `i.exp_avg` and `i.exp_avg_sq`."""

    @abstractmethod
    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it does not fit."""

    @abstractmethod
    def peak_bytes(self) -> int:
        """The most memory that was held so far."""
