"""Which block a domain does without next, by the numbers of the recipe; what closing costs is measured elsewhere."""

from typing import List, Mapping, Sequence

from .recipe import CLOSE_FROM, CLOSED_BY, LEAST_COST, OVERSHOOT, ramp


def closing_target(progress: float, share_left: float) -> float:
    """The share of the block FLOPs that closed blocks may leave at `progress` (0 to 1), on its way to `share_left`."""
    return 1.0 - (1.0 - share_left) * ramp(progress, CLOSE_FROM, CLOSED_BY)


def may_be_closed(still: Sequence[int], saved: Sequence[float], now: float, share_left: float) -> List[int]:
    """Of the blocks that are `still` open, those that do not save too much. saved: by block, the share of the FLOPs
    that closing it saves. now: the share that is left."""
    return [i for i in still if now - saved[i] >= share_left - OVERSHOOT]


def cheapest(costs: Mapping[int, float], saved: Sequence[float]) -> int:
    """The block that costs the loss least for what it saves. costs: by block, what closing it adds to the loss."""
    return min(costs, key=lambda i: (max(costs[i], 0.0) + LEAST_COST) / saved[i])
