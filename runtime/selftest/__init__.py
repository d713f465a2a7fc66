"""A self-test of a bundle on this machine: whether its engines compute what it means, and how fast; golden values."""

from .computing import compute_goldens, tried_domain
from .decided import Decided
from .findings import FAIL, PASS, SKIP
from .goldens import Goldens, parse_goldens, write_goldens
from .options import SelftestOptions
from .pictures import golden_pictures, network_images
from .report import Report
from .running import Listener, run_in_child, run_selftest
from .stages import STAGES, run_stage
from .summary import relative_error, summarised

__all__ = [
    "FAIL",
    "PASS",
    "SKIP",
    "STAGES",
    "Decided",
    "Goldens",
    "Listener",
    "Report",
    "SelftestOptions",
    "compute_goldens",
    "golden_pictures",
    "network_images",
    "parse_goldens",
    "relative_error",
    "run_in_child",
    "run_selftest",
    "run_stage",
    "summarised",
    "tried_domain",
    "write_goldens",
]
