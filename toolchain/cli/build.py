"""``da3 build``: a bundle's TensorRT engines, made on the device that shall run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def build(
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="bundle folder")] = Path("bundle"),
    precision: Annotated[str, typer.Option(help="fp16, fp32 or int8")] = "fp16",
    batch: Annotated[
        str, typer.Option(metavar="N:MAX", help="tune for N images, and take up to MAX at a time")
    ] = "1:8",
    workspace: Annotated[
        str | None, typer.Option(help="memory TensorRT may work in, such as 512MB (default: 1GB at most)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="build all again")] = False,
    engines: Annotated[Path | None, typer.Option(help="folder to put them in (default: in the bundle)")] = None,
) -> None:
    """Build a bundle's TensorRT engines on this device, once for all domains, later ones too.

    Ctrl-C keeps what is built, as soon as the engine under way is; the same command goes on. The same as 'python -m
    da3.runtime build', which needs no typer.

    Example: da3 build --bundle bundle --precision fp16
    """
    from da3.runtime.app.texts import parse_batch, parse_bytes, render_progress, render_report
    from da3.runtime.trt.build import build_engines

    report = build_engines(
        bundle,
        precision,
        parse_batch(batch),
        workspace_bytes=None if workspace is None else parse_bytes(workspace),
        progress=lambda step: print(render_progress(step), flush=True),
        force=force,
        engines=None if engines is None else str(engines),
    )
    print(render_report(report))
