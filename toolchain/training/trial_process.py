"""The process of a trial run: ``python -m da3.toolchain.training.trial_process``, see ``Worker``."""

from __future__ import annotations

from da3.toolchain.process.worker import Answer, Say, serve
from da3.toolchain.training.trial import Trial


def _work(request: Answer, say: Say) -> None:
    say({"peak": Trial.from_json(request).run()})


if __name__ == "__main__":
    serve(_work)
