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
    `outputs`. block: the number of the backbone block it runs. gate: the value that decides whether it runs. skip: the
    segment that runs on skip_inputs otherwise. gate and skip are both given or both None."""

    segment: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    block: Optional[int] = None
    gate: Optional[str] = None
    skip: Optional[str] = None
    skip_inputs: Tuple[str, ...] = ()

    @property
    def skipped(self) -> "Step":
        """What is done in this step's place where its gate is closed; it has one."""
        assert self.skip is not None
        return self._replace(segment=self.skip, inputs=self.skip_inputs, gate=None, skip=None, skip_inputs=())

    @property
    def always(self) -> "Step":
        """The same step without its gate."""
        return self._replace(gate=None, skip=None, skip_inputs=())


class Block(NamedTuple):
    """One backbone block. flops: operations for one image; skip_flops: what is left of them when it is skipped (None:
    it has no gate, so it cannot be)."""

    name: str
    flops: float
    skip_flops: Optional[float]


class Domain(NamedTuple):
    """One domain, ready to run. weights: tensor name -> float32, C-contiguous, read-only by convention."""

    name: str
    classes: Tuple[str, ...]
    theta: float
    gated: bool
    backbone_sha256: str
    size: int
    adaptor: Dict[str, Any]
    metrics: Dict[str, Any]
    weights: Dict[str, Array]


class BatchResult(NamedTuple):
    """What one pass gives. logits: float32 (B, classes). blocks: bool (B, n_blocks), True where the block ran."""

    logits: Array
    blocks: Array
    domain: Domain


class Prediction(NamedTuple):
    """The answer for one image.

    probability is that of `label`; probabilities and logits are float32 (classes,); blocks says for each
    backbone block whether it ran; flops_share is the share of the blocks' operations that ran (1.0: all blocks).
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

    def top_k(self, k: int) -> List[Tuple[str, float]]:
        """The k most probable (label, probability), best first; all of them when there are fewer than k."""
        order = np.argsort(-self.probabilities, kind="mergesort")[: max(0, k)]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]
