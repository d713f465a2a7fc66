"""How much of a backbone's work an image takes: the one count of block FLOPs."""

from typing import Sequence

import numpy as np

from ..records import Array, Block


def saved_shares(blocks: Sequence[Block]) -> Array:
    """float64 (n_blocks,): what not running each block saves, as a share of the FLOPs of all blocks.

    A gateable block that is skipped still costs its skip_flops; a block without a gate costs nothing when it does not
    run. All 0 where the blocks have no FLOPs.
    """
    full, left = _full(blocks), _left(blocks)
    total = full.sum()
    shares: Array = (full - left) / total if total > 0 else np.zeros(len(blocks))
    return shares


def flops_share(blocks: Sequence[Block], ran: Array) -> Array:
    """bool (B, n_blocks) -> float64 (B,): the FLOPs of what ran over those of all blocks; 1.0 where there are none."""
    full, left = _full(blocks), _left(blocks)
    if full.sum() == 0:
        return np.ones(ran.shape[0])
    share: Array = np.where(ran, full, left).sum(axis=1) / full.sum()
    return share


def _full(blocks: Sequence[Block]) -> Array:
    return np.array([b.flops for b in blocks], dtype=np.float64)


def _left(blocks: Sequence[Block]) -> Array:
    """What a block costs that did not run."""
    return np.array([0.0 if b.skip_flops is None else b.skip_flops for b in blocks], dtype=np.float64)
