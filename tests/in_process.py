"""Commands in this process, for tests of what a command says and does, not of how its process starts."""

import contextlib
import io
import os
import sys
import traceback
from subprocess import CompletedProcess
from unittest import mock

from da3.runtime.app import main as runtime_main
from da3.toolchain.cli import main as command_line
from da3.toolchain.process import settings


def da3(*words, cwd, stdin=""):
    """What ``subprocess.run`` of ``da3 words`` gives with its output captured as text, without a start of seconds."""
    before = os.getcwd()
    os.chdir(cwd)
    try:
        with mock.patch.object(settings, "restart_settled", lambda: None):  # this process has tests to run
            return _captured(command_line.main, "da3", words, stdin)
    finally:
        os.chdir(before)


def runtime(*words, input=""):
    """The same of ``python -m da3.runtime words``."""
    return _captured(lambda: sys.exit(runtime_main()), sys.argv[0], words, input)


def _captured(main, program, words, stdin):
    words = [str(word) for word in words]
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.object(sys, "argv", [program, *words]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = _exit_code(main)
    return CompletedProcess(words, code, *(stream.buffer.getvalue().decode() for stream in (out, errors)))


def _exit_code(main):
    """That of the whole command; what would end a process is printed as Python does it."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
