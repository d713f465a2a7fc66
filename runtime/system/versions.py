"""The version of da3, and those of the distributions that this Python has, on any Python from 3.6 on."""

import importlib
from typing import Optional

VERSION = "0.1.0"  # pyproject.toml takes it from here, so that run_engine.pyz, which has no metadata, knows it too


def distribution_version(name: str) -> Optional[str]:
    """The version of an installed distribution, None when there is none."""
    try:
        metadata = importlib.import_module("importlib.metadata")
    except ImportError:  # Python < 3.8
        return _version_from_pkg_resources(name)
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _version_from_pkg_resources(name: str) -> Optional[str]:
    try:
        resources = importlib.import_module("pkg_resources")
    except ImportError:
        return None
    try:
        return str(resources.get_distribution(name).version)
    except Exception:  # its exceptions moved between releases
        return None
