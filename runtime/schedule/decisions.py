"""Whether a block runs: the one rule that everything which executes a plan follows."""

from typing import Any, Collection, Mapping, Optional

import numpy as np

from ..errors import DomainError

# Block number -> True: the block runs, False: it is skipped, whatever its gate says. Other blocks ask their gates.
Overrides = Mapping[int, bool]


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


def check_overrides(overrides: Overrides, blocks: int, gateable: Collection[int]) -> None:
    """Raise DomainError if one names a block that is not there, or skips one that has no gate.

    blocks: how many there are. gateable: numbers of those that have a gate.
    """
    for block, runs in overrides.items():
        if not 0 <= block < blocks or (not runs and block not in gateable):
            known = ", ".join(str(b) for b in sorted(gateable)) or "none"
            raise DomainError("block %d cannot be skipped; gateable blocks: %s" % (block, known))
