"""``da3 fleet``: many domains trained on a Ray cluster, each an ordinary run of ``da3 train`` on some node of it."""

from da3.toolchain.fleet.cluster import Connected, Fleet, Outcome, State
from da3.toolchain.fleet.job import Job
from da3.toolchain.fleet.plan import FleetPlan, read_plan
from da3.toolchain.fleet.table import FleetReporter, LiveTable
from da3.toolchain.fleet.train import FleetResult, train_fleet

__all__ = [
    "Connected",
    "Fleet",
    "FleetPlan",
    "FleetReporter",
    "FleetResult",
    "Job",
    "LiveTable",
    "Outcome",
    "State",
    "read_plan",
    "train_fleet",
]
