"""`da3 bench distributed`: whole runs in processes of their own, and what is made of their figures."""

import os

import pytest

from da3.toolchain.bench import DistributedPlan, SilentBenchReporter, bench_distributed, distributed_table
from da3.toolchain.bench.distributed import _row
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.worker import WorkerError


def run(seconds, sent=(), exchanging=(), accuracy=0.5, loss=1.0):
    return {"seconds": seconds, "sent": sent, "exchanging": exchanging, "accuracy": accuracy, "loss": loss}


def test_runs_are_compared_seed_by_seed():
    alone = [run([1.0, 2.0, 9.0]), run([3.0]), run([8.0])]
    several = [run([1.0, 1.0, 7.0], [4, 4, 4], [0.1]), run([2.0], [4], [0.3]), run([2.0], [4], [0.2])]
    row = _row(160, alone, several)
    assert row["speed_ups"] == [2.0, 1.5, 4.0] and row["speed_up"] == 2.0
    assert (row["bytes_a_step"], row["exchange_seconds"]) == (4, 0.2)
    assert row["step_seconds_threads"] == []
    table = distributed_table({"processes": 2, "rows": [row], "conditions": {"torch": "2.13"}})
    assert [column.header for column in table.columns][-1] == "accuracy,\n2"
    assert list(table.columns[3].cells) == ["x2.00\n1.50 to 4.00"]
    threads = _row(160, alone, several, [run([0.5])])
    table = distributed_table({"processes": 2, "rows": [threads], "conditions": {}})
    assert list(table.columns[-1].cells) == ["500 ms"]
    assert row["step_seconds_one"] == [2.0, 3.0, 8.0] and row["accuracy_several"] == [0.5] * 3


def test_more_processes_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr("da3.toolchain.bench.distributed.usable_cpus", lambda: 2)
    with pytest.raises(TrainingError, match=r"--processes 3: each is timed on a core of its own.* gives 2"):
        bench_distributed(DistributedPlan(processes=3), SilentBenchReporter())
    with pytest.raises(TrainingError, match="--size 100"):
        bench_distributed(DistributedPlan(sizes=(96, 100)), SilentBenchReporter())


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes are timed on two cores")
def test_one_and_two_processes_take_turns(photos):
    plan = DistributedPlan(data=str(photos), sizes=(32,), batch=4, seeds=1, weights="demo", with_threads=True)
    report = bench_distributed(plan, SilentBenchReporter())
    (row,) = report["rows"]
    assert row["accuracy_one"] == pytest.approx(row["accuracy_several"], abs=0.17)  # two of twelve photos
    assert row["loss_one"] == pytest.approx(row["loss_several"], rel=0.05)
    # The domain's 4 bytes a number, and a flag for each tensor: of 32 pixels' adaptors, exits and head.
    assert 100_000 < row["bytes_a_step"] < 2_000_000
    assert row["exchange_seconds"] > 0
    assert len(row["step_seconds_threads"]) == 1
    assert distributed_table(report).row_count == 1


@pytest.mark.slow
def test_too_few_photos_are_said(photos):
    plan = DistributedPlan(data=str(photos), sizes=(32,), batch=16, seeds=1, weights="demo")
    with pytest.raises(WorkerError, match="an epoch has no more than 3 steps"):
        bench_distributed(plan, SilentBenchReporter())
