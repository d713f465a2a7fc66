"""One training run in this process: ``python -m da3.toolchain.fleet.training_process``, which others start by Worker.

The request has ``options`` (those of ``TrainOptions``, ``runs`` a string), ``engine``, ``threads``, and may have
``pack``, the file that the finished domain is written to, and ``moved``: the photos are the ones that an earlier part
of the run had, wherever those were. It says ``done`` (the share of the epochs), ``doing``, ``accuracy``, and at the end
``finished``. SIGTERM makes it save and end, and so does the end of its parent.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from da3.runtime.errors import InUseError
from da3.runtime.system import scratch_folder, stop_on_interrupt
from da3.runtime.training import LAST, PhotoSet, Progress, Reporter, Row, RunConfig, checkpoint
from da3.toolchain.learning import ENGINES, EngineOptions, learn_on_engine
from da3.toolchain.process.worker import Answer, Say, serve
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.train import train

SAY_EVERY = 0.5  # seconds between answers
_PATIENCE, _PAUSE_S = 60.0, 0.5  # seconds for a process whose parent was lost to save and end


class _SaysShare(Reporter):
    """Passes on how far the run is, as a share of its epochs."""

    def __init__(self, say: Say):
        self.say, self.epochs, self.said_at = say, 1, 0.0

    def checking(self, done: int, total: int) -> None:
        self._now_and_then({"doing": "checking photos"})

    def preparing(self, done: int, total: int) -> None:
        self._now_and_then({"doing": "measuring the backbone"})

    def started(self, config: RunConfig, progress: Progress, photos: PhotoSet, trainable: int) -> None:
        self.epochs = config.epochs
        self.say({"doing": "training", "done": progress.epoch / self.epochs})

    def step(self, epoch: int, step: int, steps: int, sums: dict[str, float], memory: int) -> None:
        self._now_and_then({"done": (epoch + step / steps) / self.epochs})

    def epoch(self, row: Row) -> None:
        self.say({"done": row["epoch"] / self.epochs, "accuracy": row.get("val_accuracy")})

    def _now_and_then(self, answer: Answer) -> None:
        if time.monotonic() - self.said_at > SAY_EVERY:
            self.say(answer)
            self.said_at = time.monotonic()


def _work(request: Answer, say: Say) -> None:
    asked, threads = request["options"], request["threads"]
    reporter = _SaysShare(say)
    with stop_on_interrupt(lambda words: print(words, file=sys.stderr)) as stop:

        def once() -> Any:
            if asked.get("resume") and request.get("moved"):
                _say_where_photos_are(Path(asked["runs"]) / asked["domain"] / LAST, asked["data"])
            if request["engine"] == ENGINES[0]:
                return train(TrainOptions(**{**asked, "runs": Path(asked["runs"])}), reporter, stop)
            own = {name: asked[name] for name in EngineOptions._fields if name in asked}
            return learn_on_engine(EngineOptions(**own, threads=threads), reporter, stop)

        result = _when_alone(once, stop)
        finished = result.finished and not stop()
        if finished and request.get("pack"):
            say({"doing": "exporting"})
            _export(asked["domain"], Path(asked["runs"]), request["pack"])
    best = result.best or {}
    say({"finished": finished, "accuracy": best.get("val_accuracy")})


def _when_alone(once: Callable[[], Any], stop: Callable[[], bool]) -> Any:
    """``once()``, again while another process is at the same run: one whose parent was lost saves, and ends."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return once()
        except InUseError:
            if time.monotonic() > until or stop():
                raise
            time.sleep(_PAUSE_S)


def _say_where_photos_are(last: Path, data: str) -> None:
    """A checkpoint says in which folder its photos are: say there that it is this one, with the same photos."""
    found = checkpoint.read(last)
    if found.config.data != data and Path(found.config.data).parts[-2:] == Path(data).parts[-2:]:
        config = found.config._replace(data=data)
        checkpoint.write(last, config, found.progress, found.model, found.optimizer, found.provenance, found.familiar)


def _export(domain: str, runs: Path, pack: str) -> None:
    from da3.export import export_domain  # ONNX, which training does not need
    from da3.runtime.bundle import write_pack

    folder = os.path.dirname(pack)
    os.makedirs(folder, exist_ok=True)
    with scratch_folder(folder, ".exporting-") as scratch:
        bundle = Path(scratch) / "bundle"
        export_domain(domain, runs, bundle)
        write_pack(bundle, domain, pack)


if __name__ == "__main__":
    serve(_work, orphaned=signal.SIGTERM)
