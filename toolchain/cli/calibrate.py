"""``da3 calibrate``: what a finished bundle learns from photos, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from da3.toolchain.cli.console import out
from da3.toolchain.cli.verbosity import QuietOption


def calibrate(
    domain: Annotated[
        list[str],
        typer.Option(
            "--domain", "-d", metavar="NAME", help="a domain of the bundle; with --int8 repeat it for each that counts"
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="photos it was not trained on: a subfolder per class (with --int8 any pictures), or a folder with "
            "val/; one for each --domain, in the same order",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="goal: lose at most this against running everything, and save what can be saved"
        ),
    ] = None,
    target_skip: Annotated[
        float | None, typer.Option(metavar="SHARE", help="goal: save this share of the block FLOPs, such as 0.3")
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="goal: mean time of a picture, measured here, without decoding the photo"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and change nothing")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="draw accuracy by FLOPs and by time, for every threshold, to this file"),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="no picture of the domain leaves early any more")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="measure what 'da3 build --precision int8' must know of the backbone")
    ] = False,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown", help="fit what the domain's photos look like, so that it tells other pictures from them"
        ),
    ] = False,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="with --unknown: the share of its own photos said to be unknown (default: 0.05)"
        ),
    ] = None,
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="bundle folder")] = Path("bundle"),
    quiet: QuietOption = False,
) -> None:
    """Set where a domain's pictures may leave early, for a goal, what is unknown to it, or the backbone's INT8 ranges.

    A picture leaves at the first exit whose answer is sure enough; the goal decides how sure that is. Exits are chosen
    on all photos; the accuracy in the row 'checked' is that of exits chosen on one half of them and asked about the
    other, so expect that one of new photos. A hundred photos tell a point apart, a thousand a third of it.

    A goal out of reach ends in exit code 1, says what can be had, and changes nothing. So does Ctrl-C.

    INT8 ranges are the backbone's: measure them once, on about a hundred photos of each domain. Half of the photos are
    kept back, to say how often INT8 and float32 give the same answer.

    What is unknown to a domain, training finds out by itself; with --unknown, and the photos in train/ and val/, it is
    found out anew. With --false-alarms alone no photos are needed.

    Example: da3 calibrate --domain flowers --data photos/flowers/val --max-drop 0.5 --dry-run

    Example: da3 calibrate --domain flowers --data photos/flowers/val --latency-ms 12 --plot flowers.png

    Example: da3 calibrate --domain flowers --reset

    Example: da3 calibrate --domain flowers --unknown --data photos/flowers

    Example: da3 calibrate --int8 --domain flowers --data photos/val --domain signs --data signs/val
    """
    from da3.calib import CalibrationError, calibrate_int8, calibrate_unknown
    from da3.calib import calibrate as calibrate_domain
    from da3.calib import reset as reset_domain
    from da3.runtime.system import write_atomically
    from da3.toolchain.cli.calibration_plot import draw_calibration
    from da3.toolchain.cli.calibration_tables import answers_table, calibration_table, int8_table, notes, unknown_lines
    from da3.toolchain.cli.progress_bar import progress_bar

    goals = [goal for goal in (max_drop, target_skip, latency_ms) if goal is not None]
    if false_alarms is not None and not unknown:
        raise CalibrationError("--false-alarms goes with --unknown")
    photos = _pairs(domain, data or [], len(goals), reset, int8, unknown)
    if unknown:
        if plot is not None:
            raise CalibrationError("--plot goes with a goal, not with --unknown")
        with progress_bar(quiet) as show:
            seen = calibrate_unknown(
                bundle,
                domain[0],
                photos.get(domain[0]),
                false_alarms=false_alarms,
                dry_run=dry_run,
                on_progress=show,
            )
        for line in unknown_lines(seen, dry_run):
            out.print(line, soft_wrap=True)
        return
    if (reset or int8) and (dry_run or plot is not None):
        raise CalibrationError(
            "--dry-run and --plot go with a goal: give one, such as --max-drop 0.5, or leave them out"
        )
    if reset:
        reset_domain(bundle, domain[0])
        out.print(f"{domain[0]}: no picture leaves early any more")
        return
    if int8:
        with progress_bar(quiet) as show:
            done = calibrate_int8(bundle, photos, on_progress=show)
        out.print(int8_table(done))
        return
    with progress_bar(quiet) as show:
        found = calibrate_domain(
            bundle,
            domain[0],
            photos[domain[0]],
            max_drop=max_drop,
            target_skip=target_skip,
            latency_ms=latency_ms,
            measure_latency=plot is not None,
            dry_run=dry_run,
            on_progress=show,
        )
    if plot is not None:
        write_atomically(plot, draw_calibration(found))
    out.print(calibration_table(found))
    out.print(answers_table(found))
    for note in notes(found, dry_run):
        out.print(note, soft_wrap=True)


def _pairs(
    domains: list[str], folders: list[Path], goals: int, reset: bool, int8: bool, unknown: bool
) -> dict[str, Path]:
    """Domain -> folder, for a choice of options that says one thing."""
    from da3.calib import CalibrationError

    if goals + reset + int8 + unknown != 1:
        raise CalibrationError(
            "choose one: a goal (--max-drop 0.5, --target-skip 0.3 or --latency-ms 12), --unknown, --reset, or --int8"
        )
    if len(domains) > 1 and not int8:
        raise CalibrationError("one --domain at a time: each has exits of its own")
    if reset or (unknown and not folders):
        return {}
    if len(domains) != len(folders):
        raise CalibrationError(f"{len(domains)} --domain and {len(folders)} --data: give one --data for each --domain")
    if len(set(domains)) < len(domains):
        raise CalibrationError("the same --domain twice: put its photos into one folder")
    return dict(zip(domains, folders, strict=True))
