"""The process that a trial runs in: ``python -m da3.toolchain.learning.trial_process``, see ``Worker``."""

from __future__ import annotations

from da3.toolchain.learning.trial import Trial, run_trial
from da3.toolchain.process import Answer, Say, serve


def _work(request: Answer, say: Say) -> None:
    say({"peak": run_trial(Trial.from_json(request))})


if __name__ == "__main__":
    serve(_work)
