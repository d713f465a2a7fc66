"""The process that a trial runs in: ``python -m da3.toolchain.learning.trial_process``, see ``Worker``."""

from __future__ import annotations

from da3.toolchain.learning.trial import Trial
from da3.toolchain.process import Answer, Say, serve


def _work(request: Answer, say: Say) -> None:
    say({"peak": Trial.from_json(request).run()})


if __name__ == "__main__":
    serve(_work)
