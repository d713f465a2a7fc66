"""Graphs' files: made once, ahead of their use, and what cannot be made is said when it is asked for."""

import os
import threading
from pathlib import Path

import pytest

from da3.runtime.errors import BackendError
from da3.runtime.learning import graph_files
from da3.runtime.learning.graph_files import GraphFiles


class _Bundle:
    path = "bundle"


@pytest.fixture
def made(monkeypatch):
    """Takes the place of the process that makes a file; lists what was asked of it, and holds it while told to."""
    calls, free = [], threading.Event()
    free.set()

    def make_file(kind, bundle, path, classes, closed, threads):
        free.wait(10)
        calls.append((kind, closed))
        if kind == "broken":
            raise BackendError(f"{kind} cannot be made")
        Path(path).write_text(f"{kind} {closed}")

    monkeypatch.setattr(graph_files, "make_file", make_file)
    calls.append(free)
    return calls


def test_what_is_made_ahead_is_made_once_and_again_for_other_blocks(made):
    free = made.pop()
    files = GraphFiles()
    free.clear()
    files.ahead(["observation", "step"], _Bundle, 3, ())  # returns though nothing is made yet
    assert made == []
    free.set()
    path = files.path("step", _Bundle, 3, ())
    assert made == [("observation", ()), ("step", ())] and Path(path).read_text() == "step ()"
    assert files.path("step", _Bundle, 3, ()) == path and len(made) == 2
    assert Path(files.path("step", _Bundle, 3, (4,))).read_text() == "step (4,)"
    files.close()
    assert not os.path.exists(os.path.dirname(path))


def test_what_cannot_be_made_is_said_when_it_is_asked_for_and_tried_again(made):
    made.pop()
    files = GraphFiles()
    files.ahead(["broken", "step"], _Bundle, 3, ())
    assert os.path.exists(files.path("step", _Bundle, 3, ()))
    for tries in (1, 2):
        with pytest.raises(BackendError, match="broken cannot be made"):
            files.path("broken", _Bundle, 3, ())
        assert made.count(("broken", ())) == tries
    files.close()


def test_the_end_of_a_run_does_not_wait_for_what_was_not_begun(made):
    free = made.pop()
    free.clear()
    files = GraphFiles()
    files.ahead(["observation", "step", "answers"], _Bundle, 3, ())
    threading.Timer(0.1, free.set).start()
    files.close()
    assert made == [("observation", ())]
