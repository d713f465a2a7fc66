"""The types that the runtime's sub-packages and its callers share: small, named, immutable."""

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:  # numpy 1.13 has no typing module
    Array = np.ndarray

Path = Union[str, "os.PathLike[str]"]  # a place in the file system
Shape = Tuple[Union[int, str], ...]


class Value(NamedTuple):
    """One input or output of a segment. A shape entry is an integer or the name of a free dimension."""

    name: str
    shape: Shape


class Segment(NamedTuple):
    """One ONNX graph seen from outside; inputs and outputs are positional."""

    name: str
    file: str
    inputs: Tuple[Value, ...]
    outputs: Tuple[Value, ...]


class Step(NamedTuple):
    """One line of the plan: run `segment` on the values `inputs` (earlier ones, or the domain's tensors), which gives
    `outputs`. block: the number of the backbone block it runs. skip: the segment that runs on skip_inputs in its place,
    for all pictures of a domain that closes the block; with a gate (the name of a value), for the pictures that the
    gate leaves out. exit: its one output, (batch, classes) logits, is an answer at which a picture may leave."""

    segment: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    block: Optional[int] = None
    gate: Optional[str] = None
    skip: Optional[str] = None
    skip_inputs: Tuple[str, ...] = ()
    exit: bool = False

    @property
    def skipped(self) -> "Step":
        """What is done in this step's place where its block is skipped; it can be."""
        assert self.skip is not None
        return self._replace(segment=self.skip, inputs=self.skip_inputs, gate=None, skip=None, skip_inputs=())

    @property
    def always(self) -> "Step":
        """The same step, never skipped."""
        return self._replace(gate=None, skip=None, skip_inputs=())


class Block(NamedTuple):
    """One backbone block. flops: operations for one image; skip_flops: what is left of them when it is skipped (None:
    it cannot be)."""

    name: str
    flops: float
    skip_flops: Optional[float]


class ExitRule(NamedTuple):
    """Who leaves at an exit: a picture whose largest probability, max softmax(logits / temperature), is above
    `threshold` (0 to 1; None: nobody leaves)."""

    threshold: Optional[float]
    temperature: float = 1.0


class Domain(NamedTuple):
    """One domain, ready to run.

    weights: tensor name -> float32, C-contiguous, read-only by convention. closed: numbers of the blocks that none of
    its pictures runs, ascending. exits: a rule for each exit of the plan, in its order; () where the domain has none.
    temperature: that of the last answer. calibration: how the rules came about, and
    provenance: where the domain comes from (see training/provenance.py), for people; no answer depends on either.
    theta and gated belong to format 1: the threshold of the gates of each picture, and whether they were trained.
    """

    name: str
    classes: Tuple[str, ...]
    backbone_sha256: str
    size: int
    adaptor: Dict[str, Any]
    metrics: Dict[str, Any]
    weights: Dict[str, Array]
    closed: Tuple[int, ...] = ()
    exits: Tuple[ExitRule, ...] = ()
    temperature: float = 1.0
    calibration: Dict[str, Any] = {}
    theta: float = 0.0
    gated: bool = False
    provenance: Dict[str, Any] = {}


class BatchResult(NamedTuple):
    """What one pass gives. logits: float32 (B, classes), of the exit where each picture left. blocks: bool (B,
    n_blocks), True where the block ran. left: int64 (B,), the number of that exit, counted from 0; for a picture that
    ran to the end, how many exits the plan has."""

    logits: Array
    blocks: Array
    domain: Domain
    left: Array


class Prediction(NamedTuple):
    """The answer for one image.

    probability is that of `label`; probabilities and logits are float32 (classes,), those of the exit where the picture
    left; exit is the number of that exit, counted from 0, or None where it ran to the end. blocks says for each
    backbone block whether it ran: it did not where the domain closes it, or where the picture had left.
    flops_share is the share of the blocks' operations that ran (1.0: all blocks).
    """

    label: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which no Prediction needs
    probability: float
    probabilities: Array
    logits: Array
    blocks_run: int
    blocks_skipped: int
    blocks: Tuple[bool, ...]
    flops_share: float
    domain: str
    classes: Tuple[str, ...]
    exit: Optional[int] = None

    def top_k(self, k: int) -> List[Tuple[str, float]]:
        """The k most probable (label, probability), best first; all of them when there are fewer than k."""
        order = np.argsort(-self.probabilities, kind="mergesort")[: max(0, k)]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]
