"""Where a device that works on while the host goes on is given its next part before it is known who leaves.

Started ahead, the part is run in vain for those that leave; started when the decision is there, the device waits for
the host, once for everybody who stays. So it is started ahead where

    (share that leaves) x (the part's share of the block FLOPs)  <  (share that stays) x WAIT

The shares are those of the photos that the domain was calibrated on; a part is not started ahead where they are unknown
and somebody may leave. docs/jetson.md has the figures behind it.
"""

from typing import Any, Optional, Sequence, Tuple

import numpy as np

from ..bundle.manifest import Manifest
from ..records import Domain
from .flops import flops_share, reached_blocks

WAIT = 0.05  # of a picture's time with all blocks


def starts_ahead(manifest: Manifest, domain: Domain) -> Tuple[bool, ...]:
    """For each of the domain's exits."""
    left = shares_left(domain)
    if left is None:
        return (False,) * len(domain.exits)
    reached = reached_blocks(manifest.plan, len(manifest.blocks))
    ran = reached.copy()
    ran[:, list(domain.closed)] = False
    parts = np.diff(flops_share(manifest.blocks, ran, reached))
    there = 1 - np.concatenate([[0.0], np.cumsum(left)])  # share of the pictures that come to each exit
    return tuple(bool(left[i] * parts[i] < (there[i] - left[i]) * WAIT) for i in range(len(domain.exits)))


def shares_left(domain: Domain) -> Optional[Sequence[float]]:
    """The share of the photos that left at each exit when the domain was calibrated, then that of those which ran to
    the end; None where it is not known."""
    cross_fit: Any = domain.calibration.get("cross_fit")
    found: Any = cross_fit.get("left") if isinstance(cross_fit, dict) else None
    if not isinstance(found, (list, tuple)) or len(found) != len(domain.exits) + 1:
        return None
    if not all(type(share) in (int, float) and 0 <= share <= 1 for share in found):
        return None
    return [float(share) for share in found]
