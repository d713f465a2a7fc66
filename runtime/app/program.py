"""How this program was started, so that its help and its errors name commands that can be typed here."""

import os
import sys
import zipimport
from typing import Optional

_COMMANDS = ("build", "domains", "doctor", "evaluate", "learn", "selftest")  # that the runtime's sentences name


def running() -> Optional[str]:
    """The .pyz that this process was started with, as it was typed; None without one."""
    loader = getattr(sys.modules[__name__], "__loader__", None)
    started = sys.argv[0]
    if isinstance(loader, zipimport.zipimporter) and os.path.realpath(started) == os.path.realpath(loader.archive):
        return started
    return None


def program_name() -> str:
    """What to type to start the runtime's own command line again."""
    started = running()
    if started is None:
        return "python -m da3.runtime"
    import shlex

    return "python3 %s" % shlex.quote(started)


def bundle_beside() -> Optional[str]:
    """The bundle in whose folder the running .pyz lies, None if it lies in none."""
    started = running()
    if started is None:
        return None
    folder = os.path.dirname(os.path.realpath(started))
    return folder if os.path.isfile(os.path.join(folder, "manifest.json")) else None


def in_words_of(program: str, text: str) -> str:
    """A sentence in which `da3 build` and the like are called as they are in `program`."""
    for command in _COMMANDS:
        text = text.replace("`da3 %s" % command, "`%s %s" % (program, command))
    return text
