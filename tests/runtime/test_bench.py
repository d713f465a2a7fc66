"""The figures the project prints."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from synthetic_bundle import images

from da3.runtime.bench import bench_bundle, cold_load_ms, compare, switch_us
from da3.runtime.errors import DomainError, ImageError
from da3.runtime.scheduler import flops_share


@pytest.mark.parametrize("batch", [1, 4])
def test_compare(runtime, batch):
    x = images(9)
    result = compare(runtime, x, "flowers", repeats=3, batch_size=batch)
    on, gated = result["rows"]
    assert (on["name"], gated["name"]) == ("all-on", "gated")
    assert on["flops_share"] == 1.0
    used = x[: 9 // batch * batch]
    expected = flops_share(runtime.bundle.manifest.blocks, runtime.run_batch(used, "flowers").blocks).mean()
    assert gated["flops_share"] == pytest.approx(expected) and expected < 1
    for row in result["rows"]:
        assert set(row) == {"name", "batch", "flops_share", "p50_ms", "p90_ms", "p99_ms"}
        assert row["batch"] == batch and 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
    assert result["ratio"] == pytest.approx(on["p50_ms"] / gated["p50_ms"])
    for key in ("machine", "cpus", "python", "numpy", "onnxruntime", "image_size", "repeats", "timed"):
        assert result["conditions"][key]


def test_nothing_to_time(runtime):
    with pytest.raises(ImageError, match="nothing to time: 2 images, batches of 4"):
        compare(runtime, images(2), "flowers", batch_size=4)


def test_switch_and_load(runtime):
    runtime.use("signs")
    result = switch_us(runtime, "flowers", "signs", images(1), repeats=50)
    assert 0 < result["switch_us"] < 1000 and result["first_run_after_us"] > 0 and result["run_us"] > 0
    assert runtime.domain.name == "signs"
    assert 0 < cold_load_ms(runtime, "flowers", repeats=3) < 20


def test_bench_bundle(built, bundle, tmp_path):
    report = bench_bundle(str(built[0]), "signs", repeats=2, most=4)
    assert report["domain"] == "signs" and report["conditions"]["images"] == 4
    assert report["conditions"]["pictures"] == "noise"
    assert report["switch_us"] > 0 and report["cold_load_ms"] > 0 and len(report["rows"]) == 2
    json.dumps(report)
    with pytest.raises(DomainError, match="which domain"):
        bench_bundle(str(built[0]))
    shutil.rmtree(bundle / "domains" / "signs")
    for i in range(6):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    report = bench_bundle(str(bundle), images=[f"{tmp_path}/*.png"], most=3, repeats=2)
    assert report["domain"] == "flowers" and report["switch_us"] is None
    assert report["conditions"]["images"] == 3 and report["conditions"]["pictures"] == "photos"
