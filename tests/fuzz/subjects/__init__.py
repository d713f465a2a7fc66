"""What is damaged, and how: a module for each kind of file."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..child.case import Case


class Subject(NamedTuple):
    """share: of all cases, in relation to the others'. by_structure: a strategy of hypothesis that gives cases, and
    by_bytes: from a random.Random to a case; either may be None."""

    name: str
    share: int
    by_structure: Any
    by_bytes: Callable[..., Case] | None


def all_subjects():
    from . import (
        arrays,
        bundles,
        checkpoints,
        engines,
        fleets,
        graphs,
        lines,
        packs,
        photos,
        registries,
        tables,
        weights,
    )

    modules = (bundles, graphs, packs, weights, checkpoints, engines, photos, arrays, tables, registries, lines, fleets)
    return [subject for module in modules for subject in module.SUBJECTS]
