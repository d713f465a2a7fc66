"""How much of a backbone's work an image takes: the one count of block FLOPs."""

from typing import Optional, Sequence

import numpy as np

from ..bundle.manifest import Manifest
from ..records import Array, BatchResult, Block, Step


def saved_shares(blocks: Sequence[Block]) -> Array:
    """float64 (n_blocks,): what not running each block saves, as a share of the FLOPs of all blocks.

    A block that is skipped still costs its skip_flops; one that cannot be skipped costs nothing when it does not run.
    All 0 where the blocks have no FLOPs.
    """
    full, left = _full(blocks), _left(blocks)
    total = full.sum()
    shares: Array = (full - left) / total if total > 0 else np.zeros(len(blocks))
    return shares


def reached_blocks(plan: Sequence[Step], blocks: int) -> Array:
    """bool (exits + 1, blocks): the blocks that a picture has come by, run or skipped, which left at each exit, and in
    the last row those of one that ran to the end. A block without a step of its own counts as come by."""
    count = sum(step.exit for step in plan)
    reached = np.ones((count + 1, blocks), bool)
    passed = 0
    for step in plan:
        passed += step.exit
        if step.block is not None:
            reached[:passed, step.block] = False
    return reached


def flops_share(blocks: Sequence[Block], ran: Array, reached: Optional[Array] = None) -> Array:
    """bool (B, n_blocks) -> float64 (B,): the FLOPs of what ran over those of all blocks; 1.0 where there are none.

    reached: bool (B, n_blocks), a row of `reached_blocks` for each picture: what a picture has not come by costs
    nothing, what was skipped on its way its skip_flops. None: nobody left.
    """
    full, left = _full(blocks), _left(blocks)
    if full.sum() == 0:
        return np.ones(ran.shape[0])
    done = np.where(ran, full, left if reached is None else np.where(reached, left, 0.0))
    share: Array = done.sum(axis=1) / full.sum()
    return share


def result_shares(manifest: Manifest, result: BatchResult) -> Array:
    """float64 (B,): the share of the blocks' FLOPs that each picture of a pass took."""
    reached = reached_blocks(manifest.plan, len(manifest.blocks))
    return flops_share(manifest.blocks, result.blocks, reached[result.left])


def _full(blocks: Sequence[Block]) -> Array:
    return np.array([b.flops for b in blocks], dtype=np.float64)


def _left(blocks: Sequence[Block]) -> Array:
    """What a block costs that was skipped."""
    return np.array([0.0 if b.skip_flops is None else b.skip_flops for b in blocks], dtype=np.float64)
