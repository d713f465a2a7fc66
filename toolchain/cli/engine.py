"""``da3 train`` with another engine than PyTorch: handed to a process that loads what learning needs and no more."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from da3.runtime.errors import TrainingError

_PROCESS = "da3.toolchain.cli.engine_process"


def start_engine(
    engine: str, given: Mapping[str, Any], others: Mapping[str, Any], *, verbose: bool, quiet: bool
) -> NoReturn:
    """Learn with the options ``given``, those of ``EngineOptions``, in the place of this process.

    This process has loaded the command line, of which learning has no use: its memory is let go of by starting over.
    ``others``: the options that only PyTorch has. Raises TrainingError for an engine that is not known, and for
    options that it has not.
    """
    from da3.toolchain.learning.options import ENGINES, EngineOptions, refuse_others

    if engine not in ENGINES:
        raise TrainingError(f"--engine {engine}: use {' or '.join(ENGINES)}")

    refuse_others(dict(others))
    options = EngineOptions(**given)
    options.check()
    sys.stdout.flush()
    sys.stderr.flush()
    flags = {"--debug": "--debug" in sys.orig_argv, "--verbose": verbose, "--quiet": quiet}
    words = [
        sys.executable,
        "-m",
        _PROCESS,
        json.dumps(options._asdict()),
        *(name for name, given in flags.items() if given),
    ]
    os.execv(sys.executable, words)
