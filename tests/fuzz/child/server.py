"""A process that has imported everything and runs each case in a fork of itself, with limits on time and memory.

    python -m fuzz.child.server FOLDER-OF-BASES SCRATCH [toolchain]

Requests come on stdin and outcomes go to stdout, each a pickle behind its length. A case's own stdin, stdout and stderr
are files. It is killed, with all that it started, when its time is over.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import pkgutil
import resource
import select
import shutil
import signal
import struct
import sys
import time
import traceback

from .case import Case, Entry, lay_out
from .running import run

_MOST_ADDRESSES = 6 << 30  # bytes beyond those of the server: what asks for more is refused by the system
_MOST_WRITTEN = 1 << 28
_KEPT = 1 << 16  # bytes of what a case printed


def main():
    bases, scratch = sys.argv[1:3]
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _import_everything("toolchain" in sys.argv[3:])
    number = 0
    while True:
        header = requests.read(8)
        if not header:
            return
        fields, limit = pickle.loads(requests.read(struct.unpack("<Q", header)[0]))
        number += 1
        place = os.path.join(scratch, "%d-%d" % (os.getpid(), number))
        outcome = _outcome(Case(**dict(fields, entries=[Entry(*e) for e in fields["entries"]])), bases, place, limit)
        data = pickle.dumps(outcome, 2)
        answers.write(struct.pack("<Q", len(data)) + data)
        answers.flush()


def _import_everything(toolchain):
    """Once here, so that no case has to."""
    packages = ["da3.runtime"] + (["da3.export", "da3.toolchain"] if toolchain else [])
    for package in packages:
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, package + "."):
            # TensorRT and CUDA are the device's.
            if found.name.endswith("__main__") or "tensorrt" in found.name:
                continue
            try:
                importlib.import_module(found.name)
            except ImportError:
                pass
    from da3.runtime.backends.sessions import import_onnxruntime
    from da3.runtime.errors import BackendError

    try:
        import_onnxruntime()
    except BackendError:
        pass
    try:
        import PIL.Image

        PIL.Image.init()  # loads every format
    except ImportError:
        pass
    if toolchain:
        import torch

        from .running import RUNNERS, network

        torch.set_num_threads(1)
        network("mobilenet_v2", 0.01)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.suppress(SystemExit):
            RUNNERS["toolchain"](["config", "train", "--domain", "first"])


def _outcome(case, bases, place, limit):
    """What became of a case: a dict with code, raised, answer, out, err, signal, timed_out, wall_s, cpu_s, memory (the
    most bytes that it had)."""
    os.makedirs(place)
    reading, writing = os.pipe()
    started = time.time()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_here(case, bases, place, writing)
    os.close(writing)
    told, timed_out = _listen(reading, pid, limit)
    os.close(reading)
    _end(pid, told is None and timed_out)
    _, status, used = os.wait4(pid, 0)
    # What it started and left is in its group.
    _kill(pid)
    outcome = {"code": None, "raised": None, "answer": None, "skipped": None}
    outcome.update({} if told is None else told)
    outcome.update(
        out=_head(os.path.join(place, "out")),
        err=_head(os.path.join(place, "err")),
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) and told is None else None,
        ended=told is not None,
        timed_out=timed_out,
        wall_s=time.time() - started,
        cpu_s=used.ru_utime + used.ru_stime,
        memory=used.ru_maxrss * 1024,
    )
    shutil.rmtree(place, ignore_errors=True)
    return outcome


def _run_here(case, bases, place, writing):
    """In the fork: run the case and tell what came of it; never returns."""
    told = {}
    try:
        os.setsid()
        work = os.path.join(place, "work")
        try:
            shutil.copytree(os.path.join(bases, case.base), work)
            lay_out(case.entries, work)
        except (OSError, ValueError) as error:
            told = {"skipped": "%s: %s" % (type(error).__name__, error)}
            _tell(writing, told)
        os.chdir(work)
        with open(os.path.join(place, "in"), "wb") as opened:
            opened.write(case.stdin)
        _redirect(place)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        _limit(resource.RLIMIT_AS, _addresses() + _MOST_ADDRESSES)
        _limit(resource.RLIMIT_FSIZE, _MOST_WRITTEN)
        _limit(resource.RLIMIT_CORE, 0)
        code, answer = run(case)
        told = {"code": code, "answer": answer}
    except SystemExit as error:
        told = {"code": error.code if isinstance(error.code, int) else 0 if error.code is None else 1}
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
    except BaseException as error:
        # What was raised may be as large as memory.
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-12))
        told = {"raised": {"type": type(error).__name__, "text": text[-4000:], "place": _place(error)}}
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass
        _tell(writing, told)


def _place(error):
    """The innermost function of da3 that the error came through, as file:function."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/da3/" in frame[0] or "/wt-" in frame[0] or "fuzz" in frame[0]]
    frame = (ours or frames)[-1]
    return "%s:%s" % ("/".join(frame[0].split("/")[-2:]), frame[2])


def _tell(writing, told):
    data = json.dumps(told).encode("ascii")
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)


def _redirect(place):
    for fd, name, mode in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
        opened = os.open(os.path.join(place, name), mode | (os.O_CREAT if fd else 0), 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _limit(what, most):
    resource.setrlimit(what, (most, most))


def _addresses():
    with open("/proc/self/statm") as opened:
        return int(opened.read().split()[0]) * resource.getpagesize()


def _listen(reading, pid, limit):
    """(what the case told, None if it died; whether its time was over)."""
    end, data = time.time() + limit, b""
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, end - time.time()))
        if not ready:
            return None, True
        piece = os.read(reading, 1 << 16)
        if not piece:
            return (json.loads(data.decode("ascii")) if data else None), False
        data += piece


def _end(pid, hangs):
    if hangs:
        try:
            os.kill(pid, signal.SIGUSR1)  # says where it is
            time.sleep(0.2)
        except ProcessLookupError:
            pass
    _kill(pid, alone=True)


def _kill(pid, alone=False):
    for kill in [os.killpg] + ([os.kill] if alone else []):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _head(path):
    try:
        with open(path, "rb") as opened:
            return opened.read(_KEPT)
    except OSError:
        return b""


if __name__ == "__main__":
    main()
