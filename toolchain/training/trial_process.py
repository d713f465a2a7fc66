"""The process of a trial run: ``python -m da3.toolchain.training.trial_process``, see ``Worker``."""

from __future__ import annotations

from da3.toolchain.process.worker import Answer, Say, serve
from da3.toolchain.training.trial import Trial, run_trial


def _work(request: Answer, say: Say) -> None:
    say({"peak": run_trial(Trial.from_json(request))})


if __name__ == "__main__":
    serve(_work)
