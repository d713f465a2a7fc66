"""What every trainer shares, whatever computes its gradients: configuration, recipe, photos, checkpoints.

The modules `checkpoint`, `closing`, `deployed`, `limits`, `options_file`, `provenance`, `randomness`, `recipe` and
`starting` are part of the face: the names in
them mean little without theirs.
"""

from . import checkpoint, closing, deployed, limits, options_file, provenance, randomness, recipe, starting
from .augmentation import Augmentation
from .config import (
    BACKBONE_PRECISIONS,
    CHOICES,
    GRADIENTS,
    KEEP_PRECISIONS,
    AdaptorSpec,
    MemorySettings,
    Progress,
    Row,
    RunConfig,
    slice_size,
)
from .defaults import DEFAULTS, CommonOptions
from .group import ALONE, Group
from .loading import Batch, Loader, default_workers
from .looking import MOST_PHOTOS, look
from .pace import Pace
from .photos import PhotoSet, drop_unreadable, find_photos, largest_photos, photo_folder
from .provenance import Origin
from .reporter import Reporter
from .resuming import earlier_run, photos_of
from .run import Run
from .run_files import BEST, CURVES, LAST, METRICS, RUN_FILES
from .short_run import ShortRun
from .trainee import Photos, Pixels, Predict, See, StepResult, Trainee
from .validation import Validation

__all__ = [
    "ALONE",
    "BACKBONE_PRECISIONS",
    "BEST",
    "CHOICES",
    "CURVES",
    "DEFAULTS",
    "GRADIENTS",
    "Group",
    "KEEP_PRECISIONS",
    "LAST",
    "METRICS",
    "MOST_PHOTOS",
    "RUN_FILES",
    "AdaptorSpec",
    "Augmentation",
    "Batch",
    "CommonOptions",
    "Loader",
    "MemorySettings",
    "Origin",
    "Pace",
    "PhotoSet",
    "Photos",
    "Pixels",
    "Predict",
    "See",
    "Progress",
    "Reporter",
    "Row",
    "Run",
    "RunConfig",
    "ShortRun",
    "StepResult",
    "Trainee",
    "Validation",
    "checkpoint",
    "closing",
    "default_workers",
    "deployed",
    "drop_unreadable",
    "earlier_run",
    "find_photos",
    "largest_photos",
    "look",
    "limits",
    "options_file",
    "photo_folder",
    "photos_of",
    "provenance",
    "randomness",
    "recipe",
    "slice_size",
    "starting",
]
