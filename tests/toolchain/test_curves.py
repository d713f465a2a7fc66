"""When the picture of a run's epochs is drawn."""

from da3.toolchain.curves import HistoryPicture, history
from da3.toolchain.process.worker import WorkerError

ROW = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "train_share": 1.0}


def test_the_picture_is_drawn_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    drawn, clock = [], [100.0]
    monkeypatch.setattr(history, "draw_elsewhere", lambda path, runs: drawn.append((path.name, len(runs["flowers"]))))
    monkeypatch.setattr(history.time, "monotonic", lambda: clock[0])
    picture = HistoryPicture(tmp_path, "flowers")
    for epochs, seconds in ((1, 0), (2, 10), (3, 31), (4, 35)):
        clock[0] = 100 + seconds
        assert picture([ROW] * epochs, False) is None
    picture([ROW] * 5, True)
    picture([ROW] * 5, True)  # the loop says once more that it has ended
    assert drawn == [("curves.png", 1), ("curves.png", 3), ("curves.png", 5)]


def test_a_picture_that_fails_is_no_reason_to_end_a_run(tmp_path, monkeypatch):
    def fail(path, runs):
        raise WorkerError("No module named 'matplotlib'")

    monkeypatch.setattr(history, "draw_elsewhere", fail)
    said = HistoryPicture(tmp_path, "flowers")([ROW], True)
    assert "curves.png was not drawn: No module named 'matplotlib'" in said and "\n" not in said
