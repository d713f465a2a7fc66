"""The self-test: its stages one after the other, each in a process of its own, so that a crash is a finding too."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from .findings import FAIL, Finding, line_teller
from .options import SelftestOptions, options_of
from .report import Report, finding_line
from .stage_environment import Doctor
from .stages import STAGES, Stage, run_stage

_CHILD = "import sys; sys.path[:] = %r; from %s import child; sys.exit(child(sys.argv[1:]))"
_LAST_WORDS = 4000  # characters of what a process wrote that did not end well
_SAVE_EVERY_S = 2.0


class Listener(NamedTuple):
    """Who hears how it goes. line: takes what stays on the screen; doing: takes what is being done now."""

    line: Callable[[str], None]
    doing: Callable[[str], None]


def run_selftest(
    options: SelftestOptions,
    report: Report,
    listener: Listener,
    entry: str,
    stages: Optional[Sequence[str]] = None,
) -> str:
    """Run the stages named, None: all, in their order, and write the report. Returns its result: PASS or FAIL.

    entry: the module whose function `child(words)` is called in each process; it calls `run_in_child`. Raises Da3Error
    if the report cannot be written. Ctrl-C ends the stage under way; the report has what was found by then.
    """
    report.save()
    try:
        for number, stage in enumerate(STAGES):
            if stages is None or stage.name in stages:
                listener.line("[%d/%d] %s: %s" % (number + 1, len(STAGES), stage.name, stage.title))
                _run_stage(options, report, listener, entry, stage)
    except KeyboardInterrupt:
        report.end(interrupted=True)
        raise
    return report.end()


def run_in_child(words: Sequence[str], doctor: Doctor) -> int:
    """What the process of a stage does; returns its exit code. words: as `run_selftest` gives them."""
    import faulthandler

    faulthandler.enable()  # a crash says where in Python it was
    name, options, earlier = words
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not write between the lines
    with open(earlier) as file:
        known = json.load(file)
    run_stage(name, options_of(options), line_teller(out), doctor, known)
    out.close()
    return 0


def _run_stage(options: SelftestOptions, report: Report, listener: Listener, entry: str, stage: Stage) -> None:
    earlier = report.earlier()
    record = report.begin_stage(stage.name, stage.title)
    report.save()
    started = time.time()
    with tempfile.TemporaryFile() as errors, tempfile.NamedTemporaryFile("w", suffix=".json") as known:
        json.dump(earlier, known)
        known.flush()
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD % (sys.path, entry), stage.name, options.to_json(), known.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            universal_newlines=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends that one
        )
        assert child.stdout is not None
        try:
            silent = _listen(child.stdout, options.timeout, lambda line: _heard(line, record, report, listener))
            if not silent:
                child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()
        problem = "said nothing for %g s and was stopped" % options.timeout if silent else _ending(child.returncode)
        record["ended"] = problem or "done"
        record["seconds"] = round(time.time() - started, 3)
        if problem:
            errors.seek(0)
            words = errors.read().decode("utf-8", "replace").strip()[-_LAST_WORDS:]
            record["last words"] = words.split("\n")
            text = "the process of this stage %s, at: %s" % (problem, record["doing"] or "its start")
            _heard({"finding": Finding(FAIL, stage.name, text)._asdict()}, record, report, listener)
    report.save()


def _listen(stream: IO[str], timeout: float, hear: Callable[[Dict[str, Any]], None]) -> bool:
    """Hand on every line until the stream ends; True if nothing came for so many seconds."""
    lines: "queue.Queue[Optional[str]]" = queue.Queue()

    def read() -> None:
        try:
            for text in stream:
                lines.put(text)
        except ValueError:  # it was closed, since the process was stopped
            pass
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            text = lines.get(timeout=timeout)
        except queue.Empty:
            return True
        if text is None:
            return False
        try:
            line = json.loads(text)
        except ValueError:  # the process ended in the middle of it
            continue
        hear(line)


def _heard(line: Dict[str, Any], record: Dict[str, Any], report: Report, listener: Listener) -> None:
    if "begin" in line:
        record["doing"] = line["begin"]
        listener.doing(line["begin"])
    if "note" in line:
        record["notes"][line["note"][0]] = line["note"][1]
    if "finding" in line:
        record["findings"].append(line["finding"])
        listener.line("  " + finding_line(line["finding"]))
    report.save(_SAVE_EVERY_S)


def _ending(code: int) -> str:
    """How a process ended that did not end well, "" for one that did."""
    if code >= 0:
        return "" if code == 0 else "ended with exit code %d" % code
    names: List[str] = [one.name for one in signal.Signals if one.value == -code]
    name = names[0] if names else "signal %d" % -code
    more = ", as the system does when memory runs out," if name == "SIGKILL" else ""
    return "was ended by %s%s" % (name, more)
