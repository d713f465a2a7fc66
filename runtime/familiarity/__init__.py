"""Is a photo one of the domain's at all? Fitted to features of its own, asked of any; arithmetic on arrays alone.

docs/unknown.md has the formulas' sources, and what they are worth.
"""

from .asking import Asking, is_known, share_at
from .fitting import FALSE_ALARMS, FEWEST, calibrate, fit, wanted_values
from .ranking import area_under_curve, passed_for_known

__all__ = [
    "Asking",
    "FALSE_ALARMS",
    "FEWEST",
    "area_under_curve",
    "calibrate",
    "fit",
    "is_known",
    "passed_for_known",
    "share_at",
    "wanted_values",
]
