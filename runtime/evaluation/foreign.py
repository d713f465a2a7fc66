"""Does a domain tell pictures that are none of its own? Asked about a folder of such pictures."""

from typing import Callable, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..bundle.familiar import check_can_tell
from ..engine import Runtime
from ..errors import ImageError
from ..familiarity import area_under_curve
from ..images.inputs import in_batches, read_inputs
from ..images.paths import expand
from ..records import Domain


class Foreign(NamedTuple):
    """source: the folder as it was given. familiarities: of each picture, see Prediction; known: how many passed for
    the domain's own. unreadable: (path, why)."""

    source: str
    familiarities: Tuple[float, ...]
    known: int
    unreadable: Tuple[Tuple[str, str], ...]

    def area_under_curve(self, own: Sequence[float]) -> float:
        """The chance that one of these pictures looks stranger than one of the domain's own; own: familiarities of
        those."""
        return area_under_curve(-np.array(own), -np.array(self.familiarities))


def ask_foreign(
    runtime: Runtime,
    folder: str,
    domain: Domain,
    *,
    batch_size: int = 1,
    force_all_blocks: bool = False,
    on_progress: Callable[[int, int, int], None] = lambda done, failed, total: None,
) -> Foreign:
    """Ask a domain that is loaded about every picture in a folder and below. Raises DomainError for a domain that
    cannot tell, ImageError where no picture can be read."""
    check_can_tell(domain, "--unknown")
    paths = expand([folder])
    found: List[float] = []
    known = 0
    unreadable: List[Tuple[str, str]] = []

    def skip(path: str, error: ImageError) -> None:
        unreadable.append((path, str(error)))

    for batch in in_batches(read_inputs(paths, runtime.preprocessing, skip), batch_size):
        result = runtime.run_batch(batch.images, domain.name, force_all_blocks)
        for prediction in runtime.predictions(result):
            found.append(prediction.familiarity or 0.0)
            known += bool(prediction.known)
        on_progress(len(found), len(unreadable), len(paths))
    if not found:
        raise ImageError("none of the %d pictures in %s could be read: %s" % (len(paths), folder, unreadable[0][1]))
    return Foreign(folder, tuple(found), known, tuple(unreadable))
