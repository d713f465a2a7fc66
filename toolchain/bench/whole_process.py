"""What ``da3 train`` costs as a command: memory and time of a fresh process, from its start to the written domain."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from da3.toolchain.bench.generated_photos import write_photos
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import FailedMethod, WholeReport, WholeRow
from da3.toolchain.bench.train import TrainPlan, random_or_named_weights, train_conditions
from da3.toolchain.bench.variants import Variant, memory_settings_of
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning import ENGINES

COMMAND = "da3.toolchain.cli.main"
POLL = 0.02  # seconds between looks at a process and its children
DOMAIN = "bench"


@dataclass(frozen=True)
class Whole:
    """What one command took. ``peak_bytes`` is VmHWM of its process; ``children_bytes`` the largest VmHWM of a process
    that it started, 0 without; ``together_bytes`` the most resident memory of all of them at one look."""

    peak_bytes: int
    children_bytes: int
    together_bytes: int
    seconds: float


def bench_whole_process(plan: TrainPlan, data: str | None, epochs: int, reporter: BenchReporter) -> WholeReport:
    """Run the command for every variant of ``plan``, ``plan.rounds`` turns of all of them.

    ``data``: a folder of photos; None generates ``plan.steps`` batches to train on and one to validate on. A command
    that fails is in ``failed``, and left out. Raises TrainingError for a plan that makes no sense, and where the system
    does not say what a process holds.
    """
    plan.check()
    if not sys.platform.startswith("linux"):
        raise TrainingError("--whole-process reads /proc, which only Linux has: leave it out")
    found: dict[str, list[Whole]] = {variant.label: [] for variant in plan.variants}
    failed: dict[str, str] = {}
    total = plan.rounds * len(plan.variants)
    with random_or_named_weights(plan, reporter) as weights, _photos(plan, data) as photos:
        for done, (turn, variant) in enumerate(plan.turns()):
            label, words = variant.label, f"round {turn + 1}/{plan.rounds}, {variant.label}"
            if label in failed:
                continue
            reporter.at(words, done, total)
            with tempfile.TemporaryDirectory(prefix="da3-bench-") as runs:
                measured = run_and_watch(train_command(plan, variant, weights, photos, epochs, runs), plan.threads)
            if isinstance(measured, str):
                failed[label] = measured
                reporter.note(f"error: {label}: {measured}")
            else:
                found[label].append(measured)
                reporter.note(f"{words}: {measured.peak_bytes / 1e6:,.0f} MB, {measured.seconds:.0f} s")
    engines = {variant.label: variant.engine for variant in plan.variants}
    rows = [_row(label, engines[label], measured) for label, measured in found.items() if label not in failed]
    finetune = [variant.label for variant in plan.variants if variant.method == "finetune"]
    base = next((row for row in rows if row["method"] in finetune), None)
    if base is not None:
        keys = ("peak_bytes", "seconds_median")
        for row in rows:
            row["ratios"] = {key: row[key] / base[key] for key in keys}  # type: ignore[literal-required]
    errors: list[FailedMethod] = [{"method": label, "error": error} for label, error in failed.items()]
    facts = {**train_conditions(plan), "data": data or "generated", "epochs": epochs}
    return {"rows": rows, "failed": errors, "conditions": facts}


def train_command(plan: TrainPlan, variant: Variant, weights: str, photos: str, epochs: int, runs: str) -> list[str]:
    """The words of one command."""
    options: dict[str, object] = {
        "domain": DOMAIN,
        "data": photos,
        "backbone": plan.backbone,
        "weights": weights,
        "size": plan.size,
        "batch-size": plan.batch,
        "epochs": epochs,
        "seed": plan.seed,
        "device": plan.device,
        "runs": runs,
        "method": variant.method,
    }
    if variant.method == "da3":
        options["keep"] = variant.flops_budget
    if variant.engine != ENGINES[0]:
        options["engine"] = variant.engine
    for name in memory_settings_of(variant.method):
        if variant.engine != ENGINES[0] and name != "micro_batch":
            continue  # an engine has no such choice
        value = getattr(variant.memory, name)
        options[name.replace("_", "-")] = "auto" if name == "micro_batch" and not value else value
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", COMMAND, "train", *words]


def run_and_watch(command: Sequence[str], threads: int | None = None) -> Whole | str:
    """Run ``command`` to its end; what it took, or, where it fails, the last line that it said."""
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
        watched = _Watched(process.pid)
        ended = threading.Event()
        watcher = threading.Thread(target=watched.until, args=(ended,), daemon=True)
        watcher.start()
        try:
            code = process.wait()
            seconds = time.monotonic() - start
        finally:
            process.kill()
            process.wait()
            ended.set()
            watcher.join()
        if code:
            said.seek(0)
            lines = [line.strip() for line in said if line.strip()]
            return lines[-1] if lines else f"it ended with exit code {code}"
    return Whole(watched.peak, watched.children, watched.together, seconds)


class _Watched:
    """Reads what a process and its children hold. VmHWM only rises, so the last look before an end has all of it."""

    def __init__(self, pid: int):
        self.pid = pid
        self.peak = self.children = self.together = 0

    def until(self, ended: threading.Event) -> None:
        while not ended.wait(POLL):
            self.look()

    def look(self) -> None:
        own = _held(self.pid)
        if own is None:
            return
        self.peak = max(self.peak, own[1])
        resident = own[0]
        for child in _descendants(self.pid):
            held = _held(child)
            if held is not None:
                resident += held[0]
                self.children = max(self.children, held[1])
        self.together = max(self.together, resident)


def _held(pid: int) -> tuple[int, int] | None:
    """Bytes resident now and at most; None where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    return (int(fields["VmRSS"]) * 1024, int(fields["VmHWM"]) * 1024) if len(fields) == 2 else None


def _descendants(pid: int) -> list[int]:
    """The processes that ``pid`` started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


@contextmanager
def _photos(plan: TrainPlan, data: str | None) -> Iterator[str]:
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="da3-bench-") as folder:
        write_photos(Path(folder), plan.steps * plan.batch, plan.batch, plan.seed)
        yield folder


def _row(label: str, engine: str, measured: Sequence[Whole]) -> WholeRow:
    figures: Mapping[str, list[float]] = {name: [asdict(one)[name] for one in measured] for name in asdict(measured[0])}
    return {
        "method": label,
        "engine": engine,
        "peak_bytes": statistics.median(figures["peak_bytes"]),
        "children_bytes": statistics.median(figures["children_bytes"]),
        "together_bytes": statistics.median(figures["together_bytes"]),
        "seconds_median": statistics.median(figures["seconds"]),
        "seconds": figures["seconds"],
        "ratios": None,
    }
