"""The process that draws: ``python -m da3.toolchain.curves.picture_process``, see ``Worker``."""

from __future__ import annotations

from pathlib import Path

from da3.runtime.system import write_atomically
from da3.toolchain.curves.picture import draw
from da3.toolchain.process.worker import Answer, Say, serve


def _work(request: Answer, say: Say) -> None:
    write_atomically(Path(request["path"]), draw(request["runs"]))


if __name__ == "__main__":
    serve(_work)
