"""What a domain that is being learnt answers, as the engine will run it: every exit's logits, and the last ones."""

from abc import ABC, abstractmethod
from typing import Dict, List, Tuple

import numpy as np

from ..backends.sessions import has_pool
from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..bundle.plan import DOMAIN, IMAGE, LOGITS, exit_steps
from ..calibration import NOBODY
from ..engine import Runtime
from ..records import Array, Domain, ExitRule
from ..schedule import flops_share, reached_blocks
from .runner import GraphRunner


class Answers(ABC):
    """What answers for one domain after the other; close it to have its memory back."""

    @abstractmethod
    def use(self, domain: Domain) -> None:
        """Answer as this domain from now on."""

    @abstractmethod
    def __call__(self, images: Array) -> Array:
        """float32 (B, 3, S, S), normalised -> float32 (B, exits + 1, classes)."""

    @abstractmethod
    def see(self, images: Array) -> Dict[str, Array]:
        """The same images -> what every classifier reads and LOGITS, by the plan's names: float32 (B, ...) each."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


class Answering(Answers):
    """A bundle, opened as it is to predict."""

    def __init__(self, bundle: Bundle, backend: str) -> None:
        # A pool of more threads would be the process's for good: training steps would have to share it, and it spins.
        self._runtime = Runtime(Bundle(bundle.path), backend, threads=None if has_pool() else 1)
        self._exits = exit_logits(bundle.manifest)

    def use(self, domain: Domain) -> None:
        # Exits that let nobody leave, so that one layout is opened, which ends at each exit, and no other beside it.
        self._runtime.load(domain._replace(exits=(ExitRule(NOBODY),) * len(self._exits)))
        self._runtime.use(domain.name)

    def __call__(self, images: Array) -> Array:
        result, values = self._runtime.trace(images, self._exits)
        return np.stack([values[name] for name in self._exits] + [result.logits], axis=1)

    def see(self, images: Array) -> Dict[str, Array]:
        result, seen = self._runtime.features(images)
        return dict(seen, **{LOGITS: result.logits})

    def close(self) -> None:
        self._runtime.close()


class GraphAnswers(Answers):
    """One graph with every answer, which holds the backbone once: for domains that close the blocks it was derived
    for."""

    def __init__(self, manifest: Manifest, runner: GraphRunner) -> None:
        """runner: of the graph of answers_graph.py."""
        self._names = exit_logits(manifest) + [LOGITS]
        self._runner = runner

    def use(self, domain: Domain) -> None:
        self._runner.keep({DOMAIN + name: array for name, array in domain.weights.items()})

    def see(self, images: Array) -> Dict[str, Array]:
        return self._runner.run({IMAGE: images})

    def __call__(self, images: Array) -> Array:
        found = self._runner.run({IMAGE: images})
        return np.stack([found[name] for name in self._names], axis=1)

    def close(self) -> None:
        self._runner.close()


def exit_logits(manifest: Manifest) -> List[str]:
    """What the plan calls the answers of the exits, in order."""
    return [step.outputs[0] for step in exit_steps(manifest.plan)]


def undecided(
    manifest: Manifest, name: str, classes: Tuple[str, ...], weights: Dict[str, Array], closed: Tuple[int, ...]
) -> Domain:
    """The domain of these tensors, at whose exits nobody leaves yet."""
    return Domain(
        name=name,
        classes=classes,
        backbone_sha256=manifest.backbone_sha256,
        size=manifest.preprocessing.size,
        adaptor=manifest.adaptor,
        metrics={},
        weights={name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()},
        closed=closed,
        exits=(ExitRule(None),) * len(exit_steps(manifest.plan)),
    )


def answer_costs(manifest: Manifest, closed: Tuple[int, ...] = ()) -> Array:
    """float64 (exits + 1,): the share of the block FLOPs that each answer takes."""
    count = len(manifest.blocks)
    reached = reached_blocks(manifest.plan, count)
    runs = np.array([i not in closed for i in range(count)])
    return flops_share(manifest.blocks, reached & runs, reached)
