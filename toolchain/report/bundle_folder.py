"""A bundle, or a pack, as its files tell it: the backbone's blocks, each domain's exits, and what they were worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from da3.runtime.bundle import Bundle, Manifest, read_domain, read_pack
from da3.runtime.errors import Da3Error
from da3.runtime.records import Array, Domain
from da3.runtime.schedule import flops_share, reached_blocks


@dataclass(frozen=True)
class DomainFacts:
    """``costs``: share of the block FLOPs that each answer takes, of the exits and of the end; empty where that is not
    known. ``behind``: the block behind which each exit is."""

    domain: Domain
    costs: tuple[float, ...] = ()
    behind: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of its tensors, as they are stored: 16 bits each."""
        return 2 * sum(array.size for array in self.domain.weights.values())

    @property
    def cross_fit(self) -> dict[str, Any]:
        """What the exits are worth on photos that they were not chosen on; empty where nobody wrote it down."""
        told = self.domain.calibration.get("cross_fit")
        return dict(told) if isinstance(told, dict) else {}


@dataclass(frozen=True)
class BundleFacts:
    """``manifest`` is None of a pack. ``problems``: why a domain is not told of, in a line each."""

    path: str
    manifest: Manifest | None
    domains: tuple[DomainFacts, ...]
    problems: tuple[str, ...] = ()


def read_bundle(path: str) -> BundleFacts:
    """A bundle, a folder or zipped. Raises BundleError where it cannot be read; a domain that cannot is a problem."""
    with Bundle(path, may_store=False) as bundle:
        found, problems = [], []
        for name in bundle.domains:
            try:
                found.append(_domain(read_domain(bundle, name), bundle.manifest))
            except Da3Error as error:
                problems.append(str(error))
        return BundleFacts(bundle.path, bundle.manifest, tuple(found), tuple(problems))


def read_domain_pack(path: str) -> BundleFacts:
    """A pack, or the folder of one domain. Raises Da3Error where it cannot be read."""
    return BundleFacts(path, None, (DomainFacts(read_pack(path)),))


def _domain(domain: Domain, manifest: Manifest) -> DomainFacts:
    reached: Array = reached_blocks(manifest.plan, len(manifest.blocks))
    ran = reached.copy()
    ran[:, list(domain.closed)] = False
    shares = flops_share(manifest.blocks, ran, reached)
    behind = tuple(int(np.flatnonzero(row).max()) if row.any() else -1 for row in reached[:-1])
    return DomainFacts(domain, tuple(float(share) for share in shares), behind)
