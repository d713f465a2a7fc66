"""Whether a block runs, and whether a picture leaves: the rules that everything which executes a plan follows."""

from math import exp
from typing import Any, Collection, FrozenSet, Mapping, NamedTuple, Optional

import numpy as np

from ..errors import DomainError
from ..records import Array, ExitRule

_FEW = 200  # classes, up to which Python is faster

# Block number -> True: the block runs, False: it is skipped, whatever its domain or its gate says of it.
Overrides = Mapping[int, bool]


class Leaving(NamedTuple):
    """An ExitRule as logits are compared with it. scale: 1 / temperature. limit: 1 / threshold; 0, which no sum is
    below, where nobody leaves."""

    scale: float
    limit: float


def leaving(rule: ExitRule) -> Leaving:
    """A rule made ready for comparing."""
    if rule.threshold is None:
        return Leaving(1 / rule.temperature, 0.0)
    return Leaving(1 / rule.temperature, 1 / rule.threshold if rule.threshold > 1e-300 else float("inf"))


def leaves(logits: Array, rule: ExitRule) -> Array:
    """Which pictures leave at an exit: float32 logits (B, classes) -> bool (B,).

    The largest probability, max softmax(logits / temperature), is 1 over the sum of exp((logits - largest) /
    temperature). A picture with a NaN or +infinity among its logits never leaves.
    """
    return leaves_rows(logits, *leaving(rule))


def leaves_rows(logits: Array, scale: float, limit: float) -> Array:
    """`leaves` with the numbers of a `Leaving`."""
    with np.errstate(invalid="ignore"):
        sure: Array = spread_rows(logits, scale) < limit
    return sure


def spread_rows(logits: Array, scale: float) -> Array:
    """1 over the largest probability of each picture, float64 (B,): who has less than the limit of a `Leaving` leaves.
    NaN for a picture with a NaN or +infinity among its logits. scale: 1 / temperature."""
    exact = logits.astype(np.float64)
    with np.errstate(all="ignore"):
        spread: Array = np.exp((exact - exact.max(axis=1, keepdims=True)) * scale).sum(axis=1)
    return spread


def spread_one(logits: Array, scale: float) -> float:
    """`spread_rows` for one picture, logits (1, classes).

    In Python: between two parts of a network nothing is in the caches, and numpy's functions then take 25 us here,
    where this takes 5.
    """
    if logits.shape[1] > _FEW:
        return float(spread_rows(logits, scale)[0])
    values = logits[0].tolist()
    largest = max(values)
    total = 0.0
    for value in values:
        total += exp((value - largest) * scale)
    return total


def threshold(theta: float) -> float:
    """A domain's theta as gates are compared with it.

    Gate logits are float32. Rounding theta to float32 makes the comparison exact, for one logit and for an array alike.
    """
    return float(np.float32(theta))


def opens(logits: Any, theta: float) -> Any:
    """Whether a gate lets its block run: its logit is above theta.

    logits: a float gives a bool; a numpy array or a torch tensor (B,) gives one of bools (B,). A NaN is above nothing;
    what runs a plan refuses gates that are not finite (execution/program.py).
    """
    return logits > theta


def forced(gate: Optional[str], block: Optional[int], gated: bool, overrides: Overrides) -> Optional[bool]:
    """What is decided before any gate is asked: True runs the block, False skips it, None leaves it to its gate.

    gate and block: those of a Step or a Call. gated: whether the domain's gates were trained. A step without a gate
    runs always; an override comes before the gate, also where the domain has none.
    """
    if gate is None:
        return True
    if block is not None and block in overrides:
        return bool(overrides[block])
    return None if gated else True


def closed_blocks(closed: Collection[int], overrides: Overrides, gated: Collection[int]) -> FrozenSet[int]:
    """The blocks that no picture runs: those that the domain closes and nobody opens, and those that are skipped by an
    override. Blocks with a gate (`gated`) are not among the latter: `forced` tells of them."""
    opened = {block for block, runs in overrides.items() if runs}
    skipped = {block for block, runs in overrides.items() if not runs} - set(gated)
    return (frozenset(closed) - opened) | skipped


def check_overrides(overrides: Overrides, blocks: int, gateable: Collection[int]) -> None:
    """Raise DomainError if one names a block that is not there, or skips one that cannot be skipped.

    blocks: how many there are. gateable: numbers of those that can be skipped.
    """
    for block, runs in overrides.items():
        if not 0 <= block < blocks or (not runs and block not in gateable):
            known = ", ".join(str(b) for b in sorted(gateable)) or "none"
            raise DomainError("block %d cannot be skipped; gateable blocks: %s" % (block, known))
