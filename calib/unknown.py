"""``da3 calibrate --unknown``: what a finished domain's own photos look like, so that it tells others from them.

A run does this at its end; this is for a domain that was trained before there was any of it, whose photos have changed,
or for another share of false alarms. Its weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from da3.calib.errors import CalibrationError
from da3.runtime import Bundle, Domain, Runtime
from da3.runtime.bundle import LOGITS, read_domain, seen_values, update_familiar
from da3.runtime.familiarity import FALSE_ALARMS, FEWEST, wanted_values
from da3.runtime.records import Array, Familiar
from da3.runtime.training import MOST_PHOTOS, default_workers, drop_unreadable, find_photos, look

VAL_SHARE = 1 / 3  # of photos that are not in train/ and val/

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class UnknownCalibration:
    """``familiar``: what was found, whose ``photos`` are how many it was fitted to, and calibrated on. ``unreadable``:
    (path, reason) of each photo that was left out."""

    domain: str
    familiar: Familiar
    unreadable: tuple[tuple[str, str], ...] = ()


def calibrate_unknown(
    bundle: str | Path,
    domain: str,
    data: str | Path | None = None,
    *,
    false_alarms: float | None = None,
    dry_run: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> UnknownCalibration:
    """Fit what a domain's photos look like, and write it into the bundle unless ``dry_run``.

    ``data``: a folder with one subfolder per class, or its parent with ``train/`` and ``val/``: fitted to the first,
    calibrated on the second, or where there is none on a part that is split off. None: nothing is looked at, and the
    domain's share of ``false_alarms``, between 0 and 1, is changed alone. Raises CalibrationError and runtime errors.
    """
    if false_alarms is not None and not 0 < false_alarms < 1:
        raise CalibrationError(f"--false-alarms {false_alarms:g}: a share between 0 and 1, such as 0.05")
    with Bundle(bundle, may_store=False) as opened:
        before = read_domain(opened, domain)
    if before.gated:
        raise CalibrationError(f"domain {domain} has gates of format 1: train and export it again")
    if data is None:
        if before.familiar is None or false_alarms is None:
            raise CalibrationError(f"--unknown needs photos of {domain}: --data FOLDER with a subfolder per class")
        found = UnknownCalibration(domain, before.familiar._replace(limit=false_alarms))
    else:
        found = _fitted(bundle, before, Path(data).expanduser(), on_progress)
        limit = FALSE_ALARMS if false_alarms is None else false_alarms
        found = UnknownCalibration(domain, found.familiar._replace(limit=limit), found.unreadable)
    if not dry_run:
        update_familiar(bundle, domain, found.familiar)
    return found


def _fitted(bundle: str | Path, domain: Domain, data: Path, on_progress: Progress) -> UnknownCalibration:
    found = find_photos(str(data), 0, VAL_SHARE)
    strange = sorted(set(found.classes) - set(domain.classes))
    if strange:
        raise CalibrationError(
            f"{data}: {strange[0]} is no class of domain {domain.name}; those are {', '.join(domain.classes)}"
        )
    workers = default_workers()
    photos = drop_unreadable(found, domain.size, workers, lambda done, total: on_progress("checking", done, total))
    with Runtime(Bundle(bundle, may_store=False)) as runtime:
        runtime.load(domain)
        prep = runtime.preprocessing
        done, total = 0, sum(min(len(some), MOST_PHOTOS) for some in (photos.train, photos.val))

        def see(pixels: Array) -> dict[str, Array]:
            nonlocal done
            result, values = runtime.features(prep.normalise(pixels), domain.name)
            done += len(pixels)
            on_progress("looking at photos", done, total)
            return {**values, LOGITS: result.logits}

        places = wanted_values(*seen_values(runtime.bundle.manifest))
        familiar = look(see, places, photos.train, photos.val, prep, workers)
    if familiar is None:
        raise CalibrationError(
            f"{data}: {len(photos.train)} photos to fit to and {len(photos.val)} to calibrate on: it takes {FEWEST} of "
            f"each at least, and a hundred to keep a promise of {FALSE_ALARMS:.0%}"
        )
    return UnknownCalibration(domain.name, familiar, photos.unreadable)
