"""The ``da3`` command in this process, for tests of what a command says and does, not of how its process starts."""

import contextlib
import io
import os
import sys
import traceback
from subprocess import CompletedProcess
from unittest import mock

from da3.toolchain.cli import main as command_line
from da3.toolchain.process import settings


def da3(*words, cwd, stdin=""):
    """What ``subprocess.run`` of the same words gives with its output captured as text, without a start of seconds."""
    words = [str(word) for word in words]
    out, errors, before = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with (
            mock.patch.object(sys, "argv", ["da3", *words]),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            mock.patch.object(settings, "restart_settled", lambda: None),  # this process has tests to run
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = _exit_code()
    finally:
        os.chdir(before)
    return CompletedProcess(words, code, out.getvalue(), errors.getvalue())


def _exit_code():
    """That of the whole command; what would end a process is printed as Python does it."""
    try:
        command_line.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
