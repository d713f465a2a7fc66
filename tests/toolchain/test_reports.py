"""What a run's folder says of its epochs, and when the picture of them is drawn."""

import json

from da3.toolchain.process.worker import WorkerError
from da3.toolchain.training import reports
from da3.toolchain.training.reports import Reports

ROW = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "train_share": 1.0}


def test_metrics_are_written_each_epoch_and_the_picture_now_and_then(tmp_path, monkeypatch):
    drawn, clock = [], [100.0]
    monkeypatch.setattr(reports, "draw_elsewhere", lambda path, runs: drawn.append((path.name, len(runs["flowers"]))))
    monkeypatch.setattr(reports.time, "monotonic", lambda: clock[0])
    kept = Reports(tmp_path, "flowers")
    assert kept.write([], True) is None and not list(tmp_path.iterdir())
    for epochs, seconds in ((1, 0), (2, 10), (3, 31), (4, 35)):
        clock[0] = 100 + seconds
        assert kept.write([ROW] * epochs, False) is None
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == epochs
    kept.write([ROW] * 5, True)
    kept.write([ROW] * 5, True)  # the loop says once more that it has ended
    assert drawn == [("curves.png", 1), ("curves.png", 3), ("curves.png", 5)]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]) == ROW


def test_a_picture_that_fails_is_no_reason_to_end_a_run(tmp_path, monkeypatch):
    def fail(path, runs):
        raise WorkerError("No module named 'matplotlib'")

    monkeypatch.setattr(reports, "draw_elsewhere", fail)
    said = Reports(tmp_path, "flowers").write([ROW], True)
    assert "curves.png was not drawn: No module named 'matplotlib'" in said and "\n" not in said
