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


ENERGY = "energy"  # a term of a LookPlace: of the last logits, where all others are values of the plan


class Look(NamedTuple):
    """How photos of a domain look by one value of the plan: see familiarity/. rows: float32 (K + r, F), K means and r
    directions; offsets: float32 (K,). centre, scale: of the distances of held-out photos."""

    rows: Array
    offsets: Array
    centre: float
    scale: float


class LookPlace(NamedTuple):
    """Where a photo may leave. terms: what it is judged by there: values of the plan, and ENERGY. knots: (share,
    distance), distances ascending: this share of the domain's own photos is at least so far."""

    terms: Tuple[str, ...]
    knots: Tuple[Tuple[float, float], ...]


class Familiar(NamedTuple):
    """What a domain's own photos look like. limit: a photo is known where at least this share of them looks as strange:
    the share of false alarms. looks: by value of the plan. energy: centre and scale. places: of every exit, and of the
    end. photos: how many it was fitted to, and how many others it was calibrated on."""

    limit: float
    looks: Dict[str, Look]
    energy: Tuple[float, float]
    places: Tuple[LookPlace, ...]
    photos: Tuple[int, int]

    @property
    def values(self) -> Tuple[str, ...]:
        """The values of the plan that are looked at, sorted."""
        return tuple(sorted(self.looks))


class Domain(NamedTuple):
    """One domain, ready to run.

    weights: tensor name -> float32, C-contiguous, read-only by convention. closed: numbers of the blocks that none of
    its pictures runs, ascending. exits: a rule for each exit of the plan, in its order; () where the domain has none.
    temperature: that of the last answer. calibration: how the rules came about, and
    provenance: where the domain comes from (see training/provenance.py), for people; no answer depends on either.
    familiar: what its own photos look like; None where nobody has looked.
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
    familiar: Optional[Familiar] = None


class BatchResult(NamedTuple):
    """What one pass gives. logits: float32 (B, classes), of the exit where each picture left. blocks: bool (B,
    n_blocks), True where the block ran. left: int64 (B,), the number of that exit, counted from 0; for a picture that
    ran to the end, how many exits the plan has. seen: the values by which it is told whether a picture is one of the
    domain's, float32 (B, F) each; empty for a domain that cannot tell."""

    logits: Array
    blocks: Array
    domain: Domain
    left: Array
    seen: Dict[str, Array] = {}


class Prediction(NamedTuple):
    """The answer for one image.

    probability is that of `label`; probabilities and logits are float32 (classes,), those of the exit where the picture
    left; exit is the number of that exit, counted from 0, or None where it ran to the end. blocks says for each
    backbone block whether it ran: it did not where the domain closes it, or where the picture had left.
    flops_share is the share of the blocks' operations that ran (1.0: all blocks). familiarity is the share of the
    domain's own photos that look as strange as this image, or stranger (0 to 1), and known says whether that is at
    least the share of false alarms that is taken for granted; both are None where the domain cannot tell.
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
    known: Optional[bool] = None
    familiarity: Optional[float] = None

    def top_k(self, k: int) -> List[Tuple[str, float]]:
        """The k most probable (label, probability), best first; all of them when there are fewer than k."""
        order = np.argsort(-self.probabilities, kind="mergesort")[: max(0, k)]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]
