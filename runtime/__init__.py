"""da3.runtime: run a bundle's domains on one engine. Needs numpy, and a backend when it runs."""

from .bundle.bundle import Bundle
from .engine import Runtime
from .errors import BackendError, BundleError, Da3Error, DomainError, ImageError
from .records import BatchResult, Domain, Prediction

__all__ = [
    "BackendError",
    "BatchResult",
    "Bundle",
    "BundleError",
    "Da3Error",
    "Domain",
    "DomainError",
    "ImageError",
    "Prediction",
    "Runtime",
]
