"""A finished run's domain put into the bundle that it was learnt on."""

import os
import shutil
import tempfile

from ..bundle.bundle import Bundle
from ..bundle.packs import add_pack
from ..bundle.writer import as_stored, domain_files, write_files
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


def write_domain(bundle: Bundle, domain: Domain) -> None:
    """Put the domain into the bundle in one step, in the place of one of its name. Raises BundleError."""
    folder = tempfile.mkdtemp(prefix="da3-learnt-")
    try:
        pack = os.path.join(folder, domain.name)
        write_files(pack, domain_files(domain))
        add_pack(bundle.path, pack, replace=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
