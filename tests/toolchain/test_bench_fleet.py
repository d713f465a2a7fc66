"""``da3 bench fleet``: what it plans and shows, and that what differs between two runs is found, whatever it is."""

import io
import json
import zipfile

import numpy as np
import pytest
from rich.console import Console
from test_training_config import CONFIG

from da3.runtime.training import BEST, LAST, Progress, checkpoint
from da3.toolchain.bench.fleet import FleetBenchPlan
from da3.toolchain.bench.same_runs import different_packs, different_runs
from da3.toolchain.bench.tables import fleet_table
from da3.toolchain.fleet import read_plan

ROW = {"epoch": 1.0, "val_accuracy": 0.5, "seconds": 3.0, "memory_mb": 100.0, "images_per_second": 9.0}


def write_run(folder, **changes):
    folder.mkdir()
    row = {**ROW, **changes.get("row", {})}
    progress = Progress(epoch=1, history=[row], best=row)
    model = {"head": np.arange(4, dtype=np.float32) + np.float32(changes.get("model", 0))}
    optimizer = {"0.exp_avg": np.full(2, changes.get("optimizer", 0.5))}
    for name in (BEST, LAST):
        config = CONFIG._replace(seed=changes.get("seed", 0))
        checkpoint.write(folder / name, config, progress, model, optimizer, {"begun": changes.get("begun", "then")})
    (folder / "validation.npz").write_bytes(changes.get("answers", b"answers"))
    (folder / "samples.npy").write_bytes(b"samples")
    return folder


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"begun": "later", "row": {"seconds": 9.0, "memory_mb": 1.0, "images_per_second": 1.0}}, []),
        ({"model": 1e-6}, [f"{name}: head" for name in (BEST, LAST)]),
        ({"optimizer": 0.5 + 1e-15}, [f"{name}: optimiser, 0.exp_avg" for name in (BEST, LAST)]),
        ({"row": {"val_accuracy": 0.75}}, [f"{name}: the progress" for name in (BEST, LAST)]),
        ({"seed": 1}, [f"{name}: the configuration" for name in (BEST, LAST)]),
        ({"answers": b"others"}, ["validation.npz"]),
    ],
)
def test_what_differs_between_runs(changes, found, tmp_path):
    assert different_runs(write_run(tmp_path / "one"), write_run(tmp_path / "other", **changes)) == found


def write_pack(path, **changes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("domain.json", json.dumps({"name": "a", "provenance": changes.get("provenance")}))
        archive.writestr("weights.safetensors", changes.get("weights", b"weights"))
    return path


def test_what_differs_between_packs(tmp_path):
    one = write_pack(tmp_path / "one")
    assert different_packs(one, write_pack(tmp_path / "x", provenance={"begun": "later"})) == []
    assert different_packs(one, write_pack(tmp_path / "x", weights=b"others")) == ["pack: weights.safetensors"]


def test_domains_are_folders_again_with_other_seeds(photos, tmp_path):
    pytest.importorskip("yaml", reason="pip install 'da3[ray]'")
    for name in ("letters", "signs"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(photos)
    (tmp_path / "fleet.yaml").write_text(FleetBenchPlan(data=tmp_path / "data", count=5, epochs=2).text())
    jobs = read_plan(str(tmp_path / "fleet.yaml")).jobs
    assert [(job.name, job.options["seed"]) for job in jobs] == [
        ("letters-0", 0),
        ("signs-0", 0),
        ("letters-1", 1),
        ("signs-1", 1),
        ("letters-2", 2),
    ]
    assert {(job.options["epochs"], job.options["size"], job.cpus) for job in jobs} == {(2, 64, 1)}


def test_the_table_says_what_differs():
    report = {
        "domains": 24,
        "nodes": 2,
        "cpus": 1,
        "epochs": 1,
        "size": 64,
        "backbone": "mobilenet_v2",
        "weights": "demo",
        "loop_seconds": [100.0, 102.0],
        "fleet_seconds": [105.0, 106.0],
        "overhead": 0.0445,
        "killed": {"seconds": 150.0, "killed_after": 12, "went_on": 1, "finished": 24, "identical": 23},
        "different": {"a, node lost": ["last.safetensors: head"]},
        "conditions": {"cpus": 2},
    }
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(fleet_table(report))
    text = console.export_text()
    assert "+4.5%" in text or "+4.4%" in text
    assert "48 of 48" in text and "23 of 24" in text and "1 went on elsewhere" in text
    assert "a, node lost: last.safetensors: head" in text
