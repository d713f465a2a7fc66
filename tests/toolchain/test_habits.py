"""What every command line has: completion, colours that can be left out, quiet and talkative runs, logs."""

import io
import os
import shlex
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from small_runs import CONFIG
from test_learning_reporter import PHOTOS, ROW

from da3.runtime.training import Progress, pace
from da3.toolchain.cli.completion import HandedOn
from da3.toolchain.cli.progress_bar import progress_bar
from da3.toolchain.errors import TrainingError
from da3.toolchain.training import ConsoleReporter, device_named

START = "import sys; sys.argv[0] = 'da3'; from da3.toolchain.cli.main import main; main()"


def complete(words):
    environment = {
        **os.environ,
        "_DA3_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=environment)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("da3 tra", ["train"]),
        ("da3 train --micro", ["--micro-batch"]),
        ("da3 run-engine --batch", ["--batch-size"]),
        ("da3 domains inf", ["info"]),
        ("da3 domains info --js", ["--json"]),
    ],
)
def test_the_shell_completes(words, found):
    assert complete(words) == found


def test_completion_can_be_shown(tmp_path):
    """It is shown for the shell that the command was typed in, which is looked up among the processes above it."""
    typed = shlex.join([sys.executable, "-c", START, "--show-completion"])
    done = subprocess.run(["bash", "-c", typed + "; true"], capture_output=True, text=True, cwd=tmp_path)
    assert "_DA3_COMPLETE=complete_bash" in done.stdout and "complete -o default" in done.stdout
    assert HandedOn.__mro__[1].__name__ == "TyperCommand"


@pytest.mark.parametrize("no_color", ["1", ""])
def test_no_color_is_honoured(no_color, tmp_path):
    """A table that is forced to be as on a terminal has no colours where NO_COLOR is set, and has them elsewhere."""
    code = "from rich.console import Console; Console(force_terminal=True, stderr=False).print('[red]x[/]'); "
    code += "from da3.toolchain.training import ConsoleReporter as R; from rich.console import Console as C; "
    code += "r = R(C(force_terminal=True)); r.__enter__(); r.checking(1, 2); r.bar.refresh(); r.__exit__()"
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ("\x1b[31m" in done.stdout, "\x1b[3" in done.stdout) == ((False, False) if no_color else (True, True))


def run_of(clock, **how):
    """What is said of an epoch of 40 steps of a second each, in a log."""
    said = io.StringIO()
    with ConsoleReporter(Console(file=said, width=200), **how) as reporter:
        reporter.started(CONFIG, Progress(), PHOTOS, 1000)
        for step in range(1, 41):
            clock[0] += 1
            reporter.step(0, step, 40, {"photos": 16.0 * step, "loss": 8.0 * step, "correct": 12.0 * step}, 10**8)
        reporter.epoch({**ROW, "val_share": 1.0})
    return said.getvalue().splitlines()


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_every_few_seconds(clock):
    lines = run_of(clock)
    steps = [line for line in lines if line.startswith("epoch 1/4: ")]
    assert [line.split("  ")[0] for line in steps] == [f"epoch 1/4: {n} of 160" for n in (10, 20, 30, 40)]
    assert "16 images/s" in steps[0] and "accuracy 75.0%" in steps[0] and steps[0].endswith("3 min to go")


def test_quiet_and_verbose(clock):
    assert run_of(clock, quiet=True) == ["skipped: z.jpg is empty"]
    verbose = run_of(clock, verbose=True)
    assert "label-smoothing = 0.1" in verbose and "75 s, learning rate 0.004 at its end" in verbose[-1]
    assert not any("learning rate" in line for line in run_of(clock))


def test_the_device_is_found(monkeypatch):
    for there, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_named("auto").type == found
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="use auto, cpu or cuda"):
        device_named("gpu")


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_work_says_nothing_of_its_progress(quiet, monkeypatch, capsys):
    monkeypatch.setattr(pace.Pace, "due", lambda self: True)
    with progress_bar(quiet) as show:
        show("photos", 3, 40)
    assert ("photos: 3 of 40" in capsys.readouterr().err) is not quiet
