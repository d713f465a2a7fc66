"""The ``da3`` command line: options in, one library call, words out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from da3.runtime.errors import Da3Error
from da3.runtime.training.config import MemorySettings, slice_size
from da3.runtime.training.defaults import DEFAULTS
from da3.runtime.training.recipe import LARGEST_BATCH
from da3.toolchain.cli.bench import bench_app
from da3.toolchain.cli.build import build
from da3.toolchain.cli.calibrate import calibrate

app = typer.Typer(
    name="da3",
    help="Adapt one frozen vision backbone to many domains, and run them on one engine that skips the blocks a "
    "picture does not need.\n\nThe usual order: da3 train, da3 export, da3 run-engine. See 'da3 COMMAND --help'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
domains_app = typer.Typer(help="List, add, remove or pack the domains of a bundle.", no_args_is_help=True)
app.add_typer(domains_app, name="domains")
app.add_typer(bench_app, name="bench")

out = Console(highlight=False, markup=False)
DomainOption = Annotated[str, typer.Option("--domain", "-d", help="name of the domain, such as flowers")]
RunsOption = Annotated[Path, typer.Option("--runs", help="folder of training runs")]
BundleOption = Annotated[Path, typer.Option("--bundle", "-b", help="bundle folder (or zip, to read)")]


def run() -> None:
    """Run the command line; errors that da3 raises on purpose end in one line, not in a traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except (Da3Error, OSError) as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _default(name: str) -> str:
    return f"(default: {getattr(DEFAULTS, name)})"


def _lean(name: str) -> str:
    return f"(default: {getattr(MemorySettings(), name)})"


@app.command()
def train(
    domain: DomainOption,
    data: Annotated[
        str | None,
        typer.Option(
            help="photos: train/ and val/ with a subfolder per class, or just a subfolder per class "
            "(default: data/DOMAIN or photos/DOMAIN)"
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help=f"mobilenet_v2, resnet18, resnet34 or resnet50 {_default('backbone')}")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet (downloads torchvision's file), demo, or a .safetensors or .pth path " + _default("weights")
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="share of the blocks' FLOPs to run on average, such as 0.6; 1 trains no gates " + _default("keep")
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help=f"passes over the photos {_default('epochs')}")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="image side in pixels, a multiple of 32 (default: what the weights state)"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=f"photos a step (default: {LARGEST_BATCH}, fewer for under 256 photos)")
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
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    keep_precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16 or int8: of the pooled inputs kept for the backward pass " + _lean("keep_precision")
        ),
    ] = None,
    backbone_precision: Annotated[
        str | None,
        typer.Option(
            help="fp32 or bf16: of the frozen weights and what is computed with them, while training "
            + _lean("backbone_precision")
        ),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="exact, or skip-path: gradients take shortcuts only, which is faster and less exact "
            + _lean("gradient")
        ),
    ] = None,
    micro_batch: Annotated[
        str | None, typer.Option(help="photos a slice of a batch; any number gives the same result (default: auto)")
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(help="such as 256MB, beyond Python and PyTorch themselves: measures, and picks what fits"),
    ] = None,
    runs: RunsOption = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="go on with a stopped run, with its own options")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier run of this domain")] = False,
) -> None:
    """Adapt a frozen backbone to a folder of labelled photos.

    Writes RUNS/DOMAIN: checkpoints, metrics.jsonl, curves.png. Ctrl-C saves; --resume ends as if uninterrupted.

    Example: da3 train --domain flowers --data photos/flowers --keep 0.7
    """
    from da3.toolchain.cli.tables import training_summary
    from da3.toolchain.process.interrupt import stop_on_interrupt
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
    )
    with ConsoleReporter() as reporter, stop_on_interrupt(reporter.note) as stop:
        result = train_domain(asked, reporter, stop)
    if not result.finished:
        out.print(f"stopped; all is saved. Go on with: da3 train --domain {domain} --resume")
        raise typer.Exit(130)
    out.print(training_summary(result), soft_wrap=True)


@app.command()
def export(
    domain: DomainOption,
    runs: RunsOption = Path("runs"),
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="bundle folder to create or add to")] = Path("bundle"),
    standalone: Annotated[
        Path | None,
        typer.Option(help="write one ordinary ONNX file here instead: same answers, any runtime, no time saved"),
    ] = None,
) -> None:
    """Put a trained domain into a bundle, verified against PyTorch before anything is moved into place.

    The first domain writes the backbone too; every other one adds only its own files.

    Example: da3 export --domain flowers
    """
    from da3.export.errors import VerificationError
    from da3.export.exporter import export_domain, export_standalone
    from da3.toolchain.cli.tables import checks_table, export_summary

    try:
        with Console(stderr=True).status("writing and verifying"):
            if standalone is None:
                done = export_domain(domain, runs, bundle)
            else:
                done = export_standalone(domain, runs, standalone)
    except VerificationError as error:
        out.print(checks_table(error.checks))
        raise
    out.print(checks_table(done.checks))
    out.print(export_summary(domain, done), soft_wrap=True)


app.command()(calibrate)
app.command()(build)


@app.command("run-engine")
def run_engine(
    images: Annotated[list[str], typer.Argument(help="files, folders, globs, .npy batches, or - for paths on stdin")],
    domain: Annotated[
        str | None,
        typer.Option("--domain", "-d", help="a domain of the bundle, or a .da3 pack (default: the only one)"),
    ] = None,
    bundle: BundleOption = Path("bundle"),
    json_: Annotated[bool, typer.Option("--json", help="one JSON object on stdout, and nothing else there")] = False,
    top_k: Annotated[int, typer.Option(help="labels to print per image", min=1)] = 1,
    batch_size: Annotated[int, typer.Option(help="images per run of the engine", min=1)] = 1,
    force_all_blocks: Annotated[
        bool, typer.Option("--force-all-blocks", help="ignore the gates: skip nothing")
    ] = False,
    repeat: Annotated[int, typer.Option(help="timed runs of each batch", min=1)] = 1,
    warmup: Annotated[int, typer.Option(help="untimed runs first", min=0)] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: all cores)", min=1)] = None,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime, tensorrt or reference")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8 (default: as the engine likes)")] = None,
    engines: Annotated[str | None, typer.Option(help="folder of TensorRT engines (default: in the bundle)")] = None,
) -> None:
    """Predict photos with a bundle. The same as 'python -m da3.runtime', which needs no typer and no torch.

    Example: da3 run-engine --domain flowers some.jpg more/
    """
    from da3.runtime.app.predict import as_json, render
    from da3.runtime.app.predict import run_engine as predict

    done = predict(
        images, str(bundle), domain, batch_size, force_all_blocks, repeat, warmup, threads, backend, precision, engines
    )
    print(json.dumps(as_json(done, top_k)) if json_ else render(done, top_k))
    if done.failed:
        raise typer.Exit(1)


@domains_app.command("list")
def domains_list(bundle: BundleOption = Path("bundle")) -> None:
    """List a bundle's domains with their classes, size, threshold and metrics."""
    from da3.toolchain.cli.tables import domains_table

    out.print(domains_table(bundle))


@domains_app.command("add")
def domains_add(
    pack: Annotated[Path, typer.Argument(help="a .da3 pack, or a folder with domain.json")],
    bundle: BundleOption = Path("bundle"),
    replace: Annotated[bool, typer.Option("--replace", help="replace a domain of the same name")] = False,
) -> None:
    """Add a domain pack to a bundle. A pack made for another backbone is refused."""
    from da3.runtime.bundle.packs import add_pack

    out.print(f"added {add_pack(bundle, pack, replace).name}")


@domains_app.command("remove")
def domains_remove(
    name: Annotated[str, typer.Argument(help="domain to delete from the bundle")],
    bundle: BundleOption = Path("bundle"),
) -> None:
    """Delete a domain from a bundle."""
    from da3.runtime.bundle.packs import remove_domain

    remove_domain(bundle, name)
    out.print(f"removed {name}")


@domains_app.command("pack")
def domains_pack(
    name: Annotated[str, typer.Argument(help="domain of the bundle")],
    bundle: BundleOption = Path("bundle"),
    to: Annotated[Path, typer.Option("--out", help="file or folder to write")] = Path(),
) -> None:
    """Write a domain of a bundle as NAME.da3, to be added to a bundle on a device."""
    from da3.runtime.bundle.packs import write_pack

    out.print(f"wrote {write_pack(bundle, name, to)}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed here, and what is wrong with it, such as onnxruntime beside onnxruntime-gpu."""
    from da3.runtime.app.commands import main as runtime_main

    raise typer.Exit(runtime_main(["doctor"]))


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--out", help="folder for photos, runs, bundle and pictures")] = Path("demo-out"),
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Adapt the embedded backbone to two small domains, export and run both; ends with a table of what was measured.

    Needs no network and about two minutes on two cores.
    """
    from da3.toolchain.cli.tables import demo_table
    from da3.toolchain.demo.demo import run_demo

    out.print(demo_table(run_demo(to, seed)))
