"""Running a bundle: which backend, how a layout is driven on it, and predictions from what it answers."""

from .answers import Naming
from .choice import NAMES, choose
from .lane import Bound, Outcome
from .scheduler import Choice, Scheduler

__all__ = ["NAMES", "Bound", "Choice", "Naming", "Outcome", "Scheduler", "choose"]
