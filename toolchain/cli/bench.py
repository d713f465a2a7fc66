"""``da3 bench``: what was measured, as a table, JSON and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from da3.toolchain.cli.console import out
from da3.toolchain.cli.options import BACKBONES

bench_app = typer.Typer(help="Measure, side by side and alternating.", no_args_is_help=True)

BENCH_PHOTOS = 32


@bench_app.command("run")
def bench_run(
    bundle: Annotated[Path, typer.Argument(help="bundle folder or zip")] = Path("bundle"),
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="default: the only one")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="photos to time (default: noise, on which no picture is easy)")
    ] = None,
    repeats: Annotated[int, typer.Option(help="turns, each of up to 32 batches of every case", min=1)] = 10,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="images a batch; may be repeated (default: 1)", min=1)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: the backend's choice)", min=1)] = None,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or tensorrt")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw latency by FLOPs run to this PNG file")] = None,
) -> None:
    """Time the engine against one monolithic model of the same network, in turns in one process.

    Cases: the monolithic model; the engine with all blocks on, with its exits asked but nobody leaving, as deployed,
    and with every picture leaving at one exit. Also: a domain switch with 1, 10 and 100 domains loaded, a domain's load
    from disk, and a new process's first answer and memory.

    Example: da3 bench run bundle --domain flowers --images photos/flowers/val --plot run.png
    """
    from da3.runtime.system import write_atomically
    from da3.toolchain.bench import bench_bundle, draw_run, run_table

    with Console(stderr=True).status("measuring"):
        report = bench_bundle(
            bundle,
            domain,
            images=images,
            most=BENCH_PHOTOS,
            repeats=repeats,
            batch_sizes=tuple(batch_size or (1,)),
            threads=threads,
            backend=backend,
        )
    if plot is not None:
        write_atomically(plot, draw_run(report))
    out.print(json.dumps(report), soft_wrap=True) if json_ else out.print(run_table(report))


@bench_app.command("stream")
def bench_stream(
    bundle: Annotated[Path, typer.Argument(help="bundle folder or zip")] = Path("bundle"),
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="default: the only one")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="photos that the camera pans over (default: made ones)")
    ] = None,
    frames: Annotated[int, typer.Option(help="frames to answer", min=1)] = 1000,
    fps: Annotated[float, typer.Option(help="frames that the camera sends a second", min=1, max=1000)] = 30.0,
    size: Annotated[str, typer.Option(help="of a frame, WIDTHxHEIGHT, multiples of 16")] = "640x480",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: the backend's choice)", min=1)] = None,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or tensorrt")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Time a camera's frames from being sent to being answered: over RTSP, on loopback, in real time.

    A camera in a process of its own sends JPEGs that say which one they are, and so when they were sent. The frames are
    read and answered as run-engine does it; the newest wins.

    Example: da3 bench stream bundle --domain flowers --images photos/flowers/val
    """
    import re

    from da3.runtime.errors import StreamError
    from da3.toolchain.bench import ConsoleBenchReporter, stream_table
    from da3.toolchain.bench import bench_stream as measure
    from da3.toolchain.process import end_on_sigterm

    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if sides is None:
        raise StreamError(f"--size {size}: use WIDTHxHEIGHT, such as 640x480")
    with ConsoleBenchReporter() as reporter, end_on_sigterm():
        report = measure(
            bundle,
            domain,
            reporter,
            frames=frames,
            fps=fps,
            size=(int(sides[1]), int(sides[2])),
            images=images,
            threads=threads,
            backend=backend,
        )
    print(json.dumps(report)) if json_ else out.print(stream_table(report))


@bench_app.command("scale")
def bench_scale(
    bundle: Annotated[Path, typer.Argument(help="bundle folder")] = Path("bundle"),
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="what is copied (default: the only one)")] = None,
    counts: Annotated[str, typer.Option(help="comma list: how many domains a bundle has, in turn")] = "1,10,100",
    registry: Annotated[
        str | None, typer.Option(help="push and pull too, as oci://localhost:5000/bench: a registry on this machine")
    ] = None,
    domains: Annotated[int, typer.Option(help="of the model", min=1)] = 10_000,
    boards: Annotated[int, typer.Option(help="of the model", min=1)] = 1_000,
    domains_a_board: Annotated[int, typer.Option("--domains-a-board", help="of the model", min=1)] = 10,
    megabits: Annotated[float, typer.Option(help="of the model: the registry's link, a second", min=0.001)] = 100.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: the backend's choice)", min=1)] = None,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or tensorrt")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """What many domains take: disk, memory, time to add, load, switch, push and pull, with copies of one of yours.

    From the first two counts a model foretells the last; then it says what a whole fleet takes, which nobody measured.
    Works in a temporary folder, which takes three times the copies; the bundle stays as it is.

    Example: da3 bench scale bundle --domain flowers --registry oci://localhost:5000/bench
    """
    from da3.runtime.errors import DomainError
    from da3.toolchain.bench import ConsoleBenchReporter, ScalePlan, scale_table
    from da3.toolchain.bench import bench_scale as measure
    from da3.toolchain.process import end_on_sigterm

    numbers = counts.split(",")
    if not all(number.isascii() and number.isdigit() and len(number) < 7 for number in numbers):
        raise DomainError(f"--counts {counts}: use a comma list of numbers, such as 1,10,100")
    plan = ScalePlan(
        bundle=bundle,
        domain=domain,
        counts=tuple(int(number) for number in numbers),
        registry=registry,
        backend=backend,
        threads=threads,
        domains=domains,
        boards=boards,
        domains_a_board=domains_a_board,
        megabits_a_second=megabits,
    )
    with ConsoleBenchReporter() as reporter, end_on_sigterm():
        report = measure(plan, reporter)
    print(json.dumps(report)) if json_ else out.print(scale_table(report))


@bench_app.command("train")
def bench_train(
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="comma list, and may be repeated; options follow their method: "
            "finetune,da3:keep=0.6,gradient=skip-path,da3:engine=onnxruntime (default: every method)"
        ),
    ] = None,
    backbone: Annotated[str, typer.Option(help=BACKBONES)] = "resnet50",
    weights: Annotated[str, typer.Option(help="random, or what da3 train --weights takes")] = "random",
    size: Annotated[int, typer.Option(help="image side in pixels, a multiple of 32")] = 224,
    batch_size: Annotated[int, typer.Option(help="images a step", min=1)] = 8,
    steps: Annotated[int, typer.Option(help="timed steps a process, after an untimed one", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="processes a method", min=1)] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: PyTorch's own choice)", min=1)] = None,
    keep: Annotated[
        float | None, typer.Option(help="of da3: share of the blocks' FLOPs to run; blocks are closed as for it")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="images a slice, where the method allows it; 0 chooses")
    ] = None,
    keep_precision: Annotated[str | None, typer.Option(help="of da3: fp32, bf16 or int8")] = None,
    backbone_precision: Annotated[str | None, typer.Option(help="of da3, linear and finetune: fp32 or bf16")] = None,
    gradient: Annotated[str | None, typer.Option(help="of da3: exact or skip-path")] = None,
    seed: Annotated[int, typer.Option(help="of the images, the labels and random weights")] = 0,
    whole_process: Annotated[
        bool,
        typer.Option(
            "--whole-process", help="run da3 train itself, from its start to the written domain, instead of its steps"
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="of --whole-process: photos (default: --steps batches of generated ones)"),
    ] = None,
    epochs: Annotated[int, typer.Option(help="of --whole-process", min=1)] = 3,
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw a bar chart to this PNG file")] = None,
) -> None:
    """Memory and time of training by method, each in fresh processes that take turns: A B C A B C ...

    docs/bench.md says what each figure is. An option given here holds for every method that it means something to and
    that does not set it itself. Exit code 1 if a method failed; the others are still measured.

    Example: da3 bench train --methods finetune,da3,da3:keep=0.6 --batch-size 4
    """
    from da3.runtime.system import write_atomically
    from da3.toolchain.bench import (
        ConsoleBenchReporter,
        TrainPlan,
        bench_whole_process,
        check_shared,
        draw_train,
        parse,
        train_table,
        whole_table,
    )
    from da3.toolchain.bench import bench_train as measure
    from da3.toolchain.errors import TrainingError
    from da3.toolchain.process import end_on_sigterm

    shared = {
        "keep": keep,
        "micro-batch": micro_batch,
        "keep-precision": keep_precision,
        "backbone-precision": backbone_precision,
        "gradient": gradient,
    }
    check_shared(shared)
    plan = TrainPlan(
        variants=parse(methods or [], shared),
        backbone=backbone,
        weights=weights,
        size=size,
        batch=batch_size,
        steps=steps,
        rounds=rounds,
        device=device,
        threads=threads,
        seed=seed,
    )
    if whole_process:
        if plot is not None:
            raise TrainingError("--plot draws what steps take: leave out --whole-process, or use --json")
        with ConsoleBenchReporter() as reporter, end_on_sigterm():
            whole = bench_whole_process(plan, data, epochs, reporter)
        print(json.dumps(whole)) if json_ else out.print(whole_table(whole))
        if whole["failed"]:
            raise typer.Exit(1)
        return
    if data is not None:
        raise TrainingError("--data is of --whole-process: steps are timed on noise")
    with ConsoleBenchReporter() as reporter, end_on_sigterm():
        report = measure(plan, reporter)
    if plot is not None and report["rows"]:
        write_atomically(plot, draw_train(report))
    print(json.dumps(report)) if json_ else out.print(train_table(report))
    if report["failed"]:
        raise typer.Exit(1)


@bench_app.command("accuracy")
def bench_accuracy(
    data: Annotated[Path, typer.Option(help="folder that holds a folder of photos for each domain")],
    domains: Annotated[str | None, typer.Option(help="comma list (default: every folder there with photos)")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="comma list as for da3 bench train, and lr: da3,da3:keep=0.7,finetune:lr=1e-4/3e-4/1e-3 reports the "
            "best of three learning rates; also da3:engine=onnxruntime (default: every method)"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="runs of each, with the seeds from 0 on", min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="passes over the photos", min=1)] = 12,
    size: Annotated[int | None, typer.Option(help="image side in pixels (default: what the weights state)")] = None,
    backbone: Annotated[str, typer.Option(help=BACKBONES)] = "mobilenet_v2",
    weights: Annotated[str, typer.Option(help="what da3 train --weights takes")] = "imagenet",
    batch_size: Annotated[int | None, typer.Option(help="photos a step (default: da3 train's)", min=1)] = None,
    no_flip: Annotated[
        list[str] | None, typer.Option(help="a domain whose photos must not be mirrored; may be repeated")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    against: Annotated[
        str | None, typer.Option(help="a method of --methods: the others' differences to it, run by run")
    ] = None,
    jobs: Annotated[int, typer.Option(help="runs at a time, each a process with its share of the cores", min=1)] = 1,
    address: Annotated[
        str | None,
        typer.Option(help="of a Ray cluster whose nodes train, all of which see --data and --out: HOST:PORT, or auto"),
    ] = None,
    cpus: Annotated[int, typer.Option(help="of --address: threads of a run, and CPUs of a node for it", min=1)] = 1,
    last_only: Annotated[
        bool, typer.Option("--last-only", help="validate after the last epoch alone: the same result, sooner")
    ] = False,
    to: Annotated[Path, typer.Option("--out", help="folder for the runs and the results")] = Path("bench-accuracy"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="train again the runs there that were made with other options")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
    plot: Annotated[Path | None, typer.Option(help="write OUT/results.png here too")] = None,
) -> None:
    """Accuracy by method, domain and seed: mean and standard deviation, with every run kept in OUT/runs.

    da3:keep=0.7 needs no run of its own beside da3: photos leave at exits, each half of them by thresholds chosen on
    the other half. Beside it is the best choice at the same FLOPs that does not look at the photo.

    Writes OUT/results.json and results.png after each run. Ctrl-C saves; the same command goes on, and takes finished
    runs as they are. Exit code 1 if a run failed; the others are still trained.

    Example: da3 bench accuracy --data photos --methods finetune,da3,da3:keep=0.7 --against da3 --jobs 2
    """
    from da3.runtime.system import write_atomically
    from da3.toolchain.bench import AccuracyPlan, ConsoleBenchReporter, accuracy_table, domains_in, draw_accuracy, parse
    from da3.toolchain.bench import bench_accuracy as measure
    from da3.toolchain.errors import TrainingError
    from da3.toolchain.process import stop_on_interrupt

    if address is not None and jobs > 1:
        raise TrainingError("--jobs is of this machine: a cluster trains as many runs at a time as it has room for")
    plan = AccuracyPlan(
        data=data,
        out=to,
        variants=parse(methods or [], learning_rates=True),
        domains=domains_in(data, domains),
        seeds=seeds,
        epochs=epochs,
        backbone=backbone,
        weights=weights,
        size=size,
        batch_size=batch_size,
        no_flip=tuple(no_flip or ()),
        device=device,
        jobs=jobs,
        overwrite=overwrite,
        against=against,
        last_only=last_only,
        address=address,
        cpus=cpus,
    )
    with ConsoleBenchReporter() as reporter, stop_on_interrupt(reporter.note) as stop:
        report = measure(plan, reporter, stop)
    if plot is not None and report["rows"]:
        write_atomically(plot, draw_accuracy(report))
    print(json.dumps(report)) if json_ else out.print(accuracy_table(report))
    if report["failed"]:
        raise typer.Exit(1)
    if report["remaining"]:
        out.print("stopped; all is saved. The same command goes on", soft_wrap=True) if not json_ else None
        raise typer.Exit(130)


@bench_app.command("fleet")
def bench_fleet(
    data: Annotated[Path, typer.Option(help="folder that holds a folder of photos for each domain")],
    count: Annotated[int, typer.Option(help="domains: the folders of --data, again with other seeds", min=1)] = 24,
    nodes: Annotated[int, typer.Option(help="of the cluster, all on this machine", min=1)] = 2,
    cpus: Annotated[int, typer.Option(help="of a node", min=1)] = 1,
    epochs: Annotated[int, typer.Option(help="passes over the photos", min=1)] = 1,
    size: Annotated[int, typer.Option(help="image side in pixels, a multiple of 32")] = 64,
    backbone: Annotated[str, typer.Option(help=BACKBONES)] = "mobilenet_v2",
    weights: Annotated[str, typer.Option(help="what da3 train --weights takes")] = "demo",
    rounds: Annotated[int, typer.Option(help="of the loop and the cluster, in turns", min=1)] = 1,
    kill_at: Annotated[
        float, typer.Option(help="share of the domains after which a node is lost, in a run of its own; 1: none")
    ] = 0.5,
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Time da3 fleet train on a Ray cluster beside a plain loop, and switch a node off midway.

    The loop starts the same process for each domain, as many at a time as the cluster has CPUs, and gives the runs that
    the cluster's are compared with, bit by bit. Exit code 1 where one differs or is not finished.

    Example: da3 bench fleet --data photos --count 24
    """
    from da3.toolchain.bench import ConsoleBenchReporter, FleetBenchPlan, fleet_table
    from da3.toolchain.bench import bench_fleet as measure
    from da3.toolchain.errors import TrainingError
    from da3.toolchain.process import end_on_sigterm

    if kill_at < 1 and nodes < 2:
        raise TrainingError("--nodes 1: of one node none can be lost; use --nodes 2 or --kill-at 1")
    if not 0 < kill_at <= 1:
        raise TrainingError(f"--kill-at {kill_at:g}: must be above 0, and at most 1")
    plan = FleetBenchPlan(
        data=data,
        count=count,
        nodes=nodes,
        cpus=cpus,
        epochs=epochs,
        size=size,
        backbone=backbone,
        weights=weights,
        rounds=rounds,
        kill_at=None if kill_at == 1 else kill_at,
    )
    with ConsoleBenchReporter() as reporter, end_on_sigterm():
        report = measure(plan, reporter)
    print(json.dumps(report)) if json_ else out.print(fleet_table(report))
    if report["different"]:
        raise typer.Exit(1)


@bench_app.command("distributed")
def bench_distributed(
    data: Annotated[
        str | None, typer.Option(help="photos of one domain (default: generated ones, whose accuracy means nothing)")
    ] = None,
    processes: Annotated[int, typer.Option(help="to compare one with", min=2)] = 2,
    size: Annotated[
        list[int] | None, typer.Option(help="image side in pixels; may be repeated (default: 160)", min=32)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="photos a step, of all processes together", min=1)] = 16,
    seeds: Annotated[int, typer.Option(help="runs of each, with the seeds from 0 on", min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="passes over the photos", min=1)] = 1,
    backbone: Annotated[str, typer.Option(help=BACKBONES)] = "mobilenet_v2",
    weights: Annotated[str, typer.Option(help="what da3 train --weights takes")] = "imagenet",
    keep: Annotated[float, typer.Option(help="share of the blocks' FLOPs to run", min=0.0, max=1.0)] = 1.0,
    with_threads: Annotated[
        bool, typer.Option("--with-threads", help="also one process with as many threads, on as many cores")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """What more processes are worth: a step with one and with several, and where both end.

    Whole runs of da3 train, in turns, with one thread and one core for each process; torchrun does the same over
    several machines. Also: what is exchanged in a step, in bytes and time.

    Example: da3 bench distributed --data photos/flowers --size 160 --epochs 4
    """
    from da3.toolchain.bench import ConsoleBenchReporter, DistributedPlan, distributed_table
    from da3.toolchain.bench import bench_distributed as measure
    from da3.toolchain.process import end_on_sigterm

    plan = DistributedPlan(
        data=data,
        processes=processes,
        sizes=tuple(size or (160,)),
        batch=batch_size,
        seeds=seeds,
        epochs=epochs,
        backbone=backbone,
        weights=weights,
        keep=keep,
        with_threads=with_threads,
    )
    with ConsoleBenchReporter() as reporter, end_on_sigterm():
        report = measure(plan, reporter)
    print(json.dumps(report)) if json_ else out.print(distributed_table(report))
