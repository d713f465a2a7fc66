"""Which blocks a domain can do without: bypasses fitted, then what closing each block costs. Forward passes alone."""

from typing import Dict, Iterable, List, Tuple

import numpy as np

from ..bundle.plan import DOMAIN, IMAGE, LOGITS
from ..records import Array
from ..training.recipe import EXIT_WEIGHT, MATCH
from .bypass_fit import BypassFit
from .forced import RUN
from .parameters import Parameters
from .runner import GraphRunner

Batches = Iterable[Tuple[Array, Array]]  # images float32 (B, 3, S, S), normalised, and labels int64 (B,)


class Closing:
    """Measures for what is learnt by now."""

    def __init__(self, parameters: Parameters, exits: List[str], runner: GraphRunner) -> None:
        """runner: of the graph of forced.py. exits: what its exits' answers are called."""
        self._parameters, self._exits, self._runner = parameters, exits, runner

    def fit_bypasses(self, batches: Batches) -> None:
        """Fit the bypasses of open blocks to what their blocks do now."""
        own = self._parameters
        fits = {i: BypassFit(own.bypasses[i]) for i in own.open_blocks() if i in own.bypasses}
        feeds = self._runs()
        self._runner.keep(self._tensors())
        for images, _ in batches:
            found = self._runner.run(dict(feeds, **{IMAGE: images}))
            for i, fit in fits.items():
                fit.add(found["p%d" % i], found["y%d" % i])
        for fit in fits.values():
            fit.solve()

    def costs(self, batches: Batches, blocks: List[int]) -> Dict[int, float]:
        """How much the mean loss rises when one of the blocks is closed."""
        count, costs, feeds = 0, dict.fromkeys(blocks, 0.0), self._runs()
        self._runner.keep(self._tensors())
        for images, labels in batches:
            feeds[IMAGE] = images
            now = self._loss(feeds, labels)
            for i in blocks:
                costs[i] += self._loss(dict(feeds, **{RUN + str(i): np.zeros(1, np.float32)}), labels) - now
            count += len(labels)
        return {i: cost / count for i, cost in costs.items()}

    def _tensors(self) -> Dict[str, Array]:
        return {DOMAIN + name: array for name, array in self._parameters.fold(every=True).items()}

    def _runs(self) -> Dict[str, Array]:
        """Which blocks run now."""
        own = self._parameters
        return {RUN + str(i): np.full(1, i not in own.closed, np.float32) for i in own.closable}

    def _loss(self, feeds: Dict[str, Array], labels: Array) -> float:
        found = self._runner.run(feeds)
        return answers_loss(found[LOGITS], [found[name] for name in self._exits], labels)


def answers_loss(logits: Array, exits: List[Array], labels: Array) -> float:
    """The recipe's loss without label smoothing, summed over the photos. logits: (B, classes) of the last answer, and
    of each of the `exits`."""
    photos = np.arange(len(labels))
    last = _log_softmax(logits)
    loss = -last[photos, labels].sum()
    for answer in exits:
        own = _log_softmax(answer)
        divergence = (np.exp(last) * (last - own)).sum()
        loss += EXIT_WEIGHT * (MATCH * divergence - (1 - MATCH) * own[photos, labels].sum())
    return float(loss)


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
