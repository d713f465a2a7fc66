"""The process that ``da3 train --engine onnxruntime`` becomes: it imports neither PyTorch nor the command line's rich.

``python -m da3.toolchain.cli.engine_process OPTIONS [--debug] [--verbose] [--quiet]``.
OPTIONS is JSON of ``EngineOptions``.
"""

from __future__ import annotations

import json
import sys

from da3.runtime.errors import Da3Error
from da3.runtime.learning import TextReporter
from da3.runtime.system import keep_little, stop_on_interrupt
from da3.toolchain.cli.training_summary import training_summary
from da3.toolchain.learning import EngineOptions, learn_on_engine


def main(words: list[str]) -> int:
    """Learn as the words ask; returns the exit code."""
    options = EngineOptions(**json.loads(words[0]))
    keep_little()
    reporter = TextReporter(verbose="--verbose" in words, quiet="--quiet" in words)
    try:
        with stop_on_interrupt(reporter.note) as stop:
            result = learn_on_engine(options, reporter, stop)
    except (Da3Error, OSError) as error:
        if "--debug" in words:
            raise
        reporter.note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if not result.finished:
        print(
            f"stopped; all is saved. Go on with: da3 train --engine onnxruntime --domain {options.domain} --resume",
            flush=True,
        )
        return 130
    print(training_summary(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
