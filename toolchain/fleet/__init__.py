"""``da3 fleet``: many domains trained on a Ray cluster, each an ordinary run of ``da3 train`` on some node of it.

Each name is imported when it is first used: what a node and the driver do needs no PyTorch, only the process that
trains does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from da3.toolchain.fleet.cluster import Connected, Fleet, Outcome, State
    from da3.toolchain.fleet.earlier import Left, look_back
    from da3.toolchain.fleet.job import Job
    from da3.toolchain.fleet.plan import FleetPlan, of_domains, read_plan
    from da3.toolchain.fleet.table import FleetReporter, LiveTable, plan_table
    from da3.toolchain.fleet.train import FleetResult, train_fleet

_MODULES = {
    "cluster": ("Connected", "Fleet", "Outcome", "State"),
    "earlier": ("Left", "look_back"),
    "job": ("Job",),
    "plan": ("FleetPlan", "of_domains", "read_plan"),
    "table": ("FleetReporter", "LiveTable", "plan_table"),
    "train": ("FleetResult", "train_fleet"),
}

__all__ = [
    "Connected",
    "Fleet",
    "FleetPlan",
    "FleetReporter",
    "FleetResult",
    "Job",
    "Left",
    "LiveTable",
    "Outcome",
    "State",
    "look_back",
    "of_domains",
    "plan_table",
    "read_plan",
    "train_fleet",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
