"""What every trainer shares, whatever computes its gradients: configuration, recipe, photos, checkpoints."""

from .augmentation import Augmentation
from .checkpoint import Checkpoint, read, write
from .config import AdaptorSpec, MemorySettings, Progress, RunConfig
from .defaults import DEFAULTS
from .loading import Batch, Loader, default_workers
from .photos import PhotoSet, drop_unreadable, find_photos
from .randomness import stream

__all__ = [
    "DEFAULTS",
    "AdaptorSpec",
    "Augmentation",
    "Batch",
    "Checkpoint",
    "Loader",
    "MemorySettings",
    "PhotoSet",
    "Progress",
    "RunConfig",
    "default_workers",
    "drop_unreadable",
    "find_photos",
    "read",
    "stream",
    "write",
]
