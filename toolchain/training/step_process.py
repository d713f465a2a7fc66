"""The process that measures a training step: ``python -m da3.toolchain.training.step_process``, see ``Worker``.

It is apart from what it measures with, so that whoever starts it can import that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from da3.toolchain.process.worker import serve
from da3.toolchain.training.step_worker import Request, measure


def _work(request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    say({"measured": asdict(measure(Request.from_json(request), lambda step: say({"step": step})))})


if __name__ == "__main__":
    serve(_work)
