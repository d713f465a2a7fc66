"""``da3 calibrate``: what a finished bundle learns from photos, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from da3.toolchain.cli.console import out


def calibrate(
    domain: Annotated[
        list[str],
        typer.Option(
            "--domain", "-d", metavar="NAME", help="a domain of the bundle; with --int8 repeat it for each that counts"
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="FOLDER",
            help="its photos: a subfolder per class (with --int8 any pictures), or a folder with val/; one for each "
            "--domain, in the same order",
        ),
    ],
    target_skip: Annotated[
        float | None, typer.Option(help="share of block FLOPs to skip on average, 0 to 1: sets the gate threshold")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="measure what 'da3 build --precision int8' must know of the backbone")
    ] = False,
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="bundle folder")] = Path("bundle"),
) -> None:
    """Set a domain's gate threshold, or the backbone's INT8 ranges, from photos, without retraining.

    INT8 ranges are the backbone's: measure them once, on about a hundred photos of each domain. Half of the photos are
    kept back, to say how often INT8 and float32 give the same answer. Ctrl-C leaves the bundle as it was.

    Example: da3 calibrate --domain flowers --data photos/val --target-skip 0.4

    Example: da3 calibrate --int8 --domain flowers --data photos/val --domain signs --data signs/val
    """
    from da3.calib import calibrate as calibrate_domain
    from da3.calib import calibrate_int8
    from da3.toolchain.cli.calibration_tables import calibration_table, int8_table
    from da3.toolchain.cli.progress_bar import progress_bar

    photos = _pairs(domain, data, target_skip, int8)
    with progress_bar() as show:
        if target_skip is None:
            table = int8_table(calibrate_int8(bundle, photos, on_progress=show))
        else:
            table = calibration_table(calibrate_domain(bundle, domain[0], data[0], target_skip, on_progress=show))
    out.print(table)


def _pairs(domains: list[str], folders: list[Path], target_skip: float | None, int8: bool) -> dict[str, Path]:
    """Domain -> folder, for a choice of options that says one thing."""
    from da3.calib.errors import CalibrationError

    if int8 == (target_skip is not None):
        raise CalibrationError("choose one: --target-skip 0.4 sets a gate threshold, --int8 measures INT8 ranges")
    if len(domains) != len(folders):
        raise CalibrationError(f"{len(domains)} --domain and {len(folders)} --data: give one --data for each --domain")
    if len(set(domains)) < len(domains):
        raise CalibrationError("the same --domain twice: put its photos into one folder")
    if len(domains) > 1 and not int8:
        raise CalibrationError("--target-skip sets the threshold of one domain at a time")
    return dict(zip(domains, folders, strict=True))
