"""Whether a block runs, and whether a picture leaves: the rules that everything which executes a plan follows."""

from typing import Any, Collection, FrozenSet, Mapping, NamedTuple, Optional

import numpy as np

from ..errors import DomainError
from ..records import Array, ExitRule

# Block number -> True: the block runs, False: it is skipped, whatever its domain or its gate says of it.
Overrides = Mapping[int, bool]


class Leaving(NamedTuple):
    """An ExitRule as logits are compared with it. scale: 1 / temperature. limit: 1 / threshold; 0, which no sum is
    below, where nobody leaves."""

    scale: float
    limit: float


def leaving(rule: ExitRule) -> Leaving:
    """A rule made ready for comparing. Its numbers are rounded to float32, so that they compare alike with one
    picture's numbers and with an array's."""
    if rule.threshold is None:
        limit = 0.0
    else:
        limit = float(np.float32(1 / rule.threshold)) if rule.threshold > 1e-30 else float("inf")
    return Leaving(float(np.float32(1 / rule.temperature)), limit)


def leaves(logits: Array, rule: ExitRule) -> Array:
    """Which pictures leave at an exit: float32 logits (B, classes) -> bool (B,).

    The largest probability, max softmax(logits / temperature), is 1 over the sum of exp((logits - largest) /
    temperature). A picture with a NaN or +infinity among its logits never leaves.
    """
    with np.errstate(all="ignore"):
        return leaves_rows(logits, *leaving(rule))


def leaves_rows(logits: Array, scale: float, limit: float) -> Array:
    """`leaves` with the numbers of a `Leaving`. numpy may warn of infinite logits."""
    sure: Array = np.exp((logits - logits.max(axis=1, keepdims=True)) * scale).sum(axis=1) < limit
    return sure


def leaves_one(logits: Array, scale: float, limit: float) -> Any:
    """`leaves_rows` for one picture, logits (1, classes): a bool, in few calls of numpy."""
    return np.exp((logits - logits.max()) * scale).sum() < limit


def threshold(theta: float) -> float:
    """A domain's theta as gates are compared with it.

    Gate logits are float32. Rounding theta to float32 makes the comparison exact, for one logit and for an array alike.
    """
    return float(np.float32(theta))


def opens(logits: Any, theta: float) -> Any:
    """Whether a gate lets its block run: its logit is above theta.

    logits: a float gives a bool; a numpy array or a torch tensor (B,) gives one of bools (B,). A NaN is above nothing,
    so a gate whose logit overflowed to NaN skips its block, and no error is raised.
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
