"""From logits to named predictions."""

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..bundle.manifest import Manifest
from ..errors import BackendError
from ..familiarity import Asking, is_known
from ..records import Array, BatchResult, Domain, Prediction
from ..schedule.flops import result_shares

_MOST_WAYS = 1024  # of a domain without gates there are as many as exits; of one with gates, more than are met


class _Way(NamedTuple):
    """What running these blocks of the backbone comes to."""

    blocks: Tuple[bool, ...]
    run: int
    flops_share: float


class Naming:
    """Names what one domain answers. All that is the same for its pictures is made once: beside an engine that takes a
    millisecond, making it anew for each takes a tenth of the time. It may be called from any thread."""

    def __init__(self, manifest: Manifest, domain: Domain) -> None:
        self.domain = domain
        self._manifest = manifest
        temperatures = [rule.temperature for rule in domain.exits] + [domain.temperature]
        self._scales = np.array([1 / temperature for temperature in temperatures], np.float32)
        self._asking = None if domain.familiar is None else Asking(domain.familiar)
        self._ways: Dict[Tuple[int, bytes], _Way] = {}

    def __call__(self, result: BatchResult, unknown_below: Optional[float] = None) -> List[Prediction]:
        """One Prediction per image: the softmax of its logits, at the temperature of the exit where it left, the most
        probable class, and whether it is one of the domain's images at all. result: of this domain. unknown_below: in
        the place of its limit."""
        logits, domain = result.logits, self.domain
        if logits.shape[1] != len(domain.classes):
            raise BackendError(
                "domain %s has %d classes, and %d numbers came as an answer: export it again"
                % (domain.name, len(domain.classes), logits.shape[1])
            )
        exits, left = len(domain.exits), result.left.tolist()
        scale = self._scales[np.minimum(result.left, exits)]
        exp = np.exp((logits - logits.max(axis=1, keepdims=True)) * scale[:, None])
        probabilities = exp / exp.sum(axis=1, keepdims=True)
        alike: List[Optional[float]] = [None] * len(left)
        if self._asking is not None and result.seen:
            alike = list(self._asking.shares(left, result.seen, logits))
        indices = logits.argmax(axis=1).tolist()
        predictions: List[Prediction] = []
        for i, (index, number, share) in enumerate(zip(indices, left, alike)):
            way = self._way(result, i, number)
            predictions.append(
                Prediction(
                    label=domain.classes[index],
                    index=index,
                    probability=float(probabilities[i, index]),
                    probabilities=probabilities[i],
                    logits=logits[i],
                    blocks_run=way.run,
                    blocks_skipped=len(way.blocks) - way.run,
                    blocks=way.blocks,
                    flops_share=way.flops_share,
                    domain=domain.name,
                    classes=domain.classes,
                    exit=number if number < exits else None,
                    known=None
                    if share is None or domain.familiar is None
                    else is_known(domain.familiar, share, unknown_below),
                    familiarity=share,
                )
            )
        return predictions

    def _way(self, result: BatchResult, i: int, left: int) -> _Way:
        """What the picture of this number ran."""
        ran: Array = result.blocks[i : i + 1]
        key = left, ran.tobytes()
        way = self._ways.get(key)
        if way is None:
            if len(self._ways) >= _MOST_WAYS:
                self._ways.clear()
            share = result_shares(self._manifest, result._replace(blocks=ran, left=result.left[i : i + 1]))
            blocks = tuple(ran[0].tolist())
            way = self._ways[key] = _Way(blocks, sum(blocks), float(share[0]))
        return way
