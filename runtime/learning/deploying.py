"""A finished run as the domain that goes into the bundle which it was learnt on."""

from ..bundle.bundle import Bundle
from ..bundle.writer import as_stored
from ..records import Domain
from ..training.checkpoint import Checkpoint
from ..training.deployed import decisions, metrics
from ..training.provenance import of_domain
from .answering import undecided
from .parameters import Parameters


def learnt_domain(bundle: Bundle, best: Checkpoint) -> Domain:
    """The domain of a run's best checkpoint, with the numbers that a bundle stores of it. Raises CheckpointError where
    it does not fit the bundle."""
    config, manifest = best.config, bundle.manifest
    own = Parameters(manifest, len(config.classes), config.seed, "closed" in best.model)
    own.load(best.model, best.path)
    weights = {name: as_stored(array) for name, array in own.fold().items()}
    domain = undecided(manifest, config.domain, config.classes, weights, own.closed)
    decided = decisions(best.progress.calibration, len(domain.exits))
    return domain._replace(
        exits=decided.exits,
        temperature=decided.temperature,
        calibration=decided.calibration,
        metrics=metrics(best.progress.best),
        provenance=of_domain(config, best.provenance),
        familiar=best.familiar,
    )
