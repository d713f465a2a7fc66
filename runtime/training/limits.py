"""Which options of a run make sense, and which may differ when it is resumed."""

from typing import Any, Dict, List, Mapping, Optional, Union

from ..bundle.format import is_domain_name
from ..errors import TrainingError
from .config import RunConfig

Number = Union[int, float]

# By option: the least and the most.
LIMITS = {
    "epochs": (1, 100000),
    "keep": (0.0, 1.0),
    "seed": (0, 2**31),
    "label-smoothing": (0.0, 0.9),
    "batch-size": (1, 4096),
    "micro-batch": (0, 4096),
}


def check_domain(name: str) -> None:
    """Raise TrainingError unless a domain may be called so, and its run lie in a folder of that name."""
    if not is_domain_name(name) or name == "backbones":
        raise TrainingError(
            "--domain %r: use letters, digits, _ and - (64 at most), and not the name 'backbones'" % name
        )


def check_numbers(given: Mapping[str, Optional[Number]], lr: Optional[float]) -> None:
    """Raise TrainingError for the first of the options in LIMITS, or a learning rate, that is out of bounds. None: it
    was not given."""
    for name, value in given.items():
        low, high = LIMITS[name]
        if value is not None and not low <= value <= high:
            raise TrainingError("--%s %s: must be between %s and %s" % (name, value, low, high))
    if lr is not None and not 0 < lr < 10:
        raise TrainingError("--lr %s: must be above 0 and below 10" % lr)


def check_start(resume: bool) -> None:
    """Raise TrainingError for a run that is to start from a domain and to be gone on with too."""
    if resume:
        raise TrainingError("--from is of a new run: leave it out to go on with one (--resume)")


def check_size(size: Optional[int]) -> None:
    """Raise TrainingError for a side of images, in pixels, that no backbone takes. None: it was not given."""
    if size is not None and (size < 32 or size % 32):
        raise TrainingError("--size %d: use a multiple of 32, such as 96, 128, 160 or 224" % size)


def check_resumable(folder: str, given: Mapping[str, Any], data: Optional[str], config: RunConfig) -> None:
    """Raise TrainingError if an option given now differs from what the run in `folder` was started with.

    given: options by the names that RunConfig and MemorySettings have; None: not given. data: the folder of photos,
    absolute.
    """
    before: Dict[str, Any] = dict(config.to_json(), **config.memory.to_json())
    changed: List[str] = [
        "--%s was %s, now %s" % (name.replace("_", "-"), before[name], value)
        for name, value in given.items()
        if value not in (None, before[name])
    ]
    if data is not None and data != config.data:
        changed.append("photos were %s, now %s" % (config.data, data))
    if changed:
        raise TrainingError(
            "cannot resume %s with other options (%s): leave them out, or start again with --overwrite"
            % (folder, "; ".join(changed))
        )
