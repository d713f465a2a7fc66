"""``da3 bench run``: figures of the engine that arithmetic confirms, in a process without PyTorch."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from synthetic_bundle import Backbone, confidence, images, write_bundle, write_exits_bundle, write_exits_domain

from da3.runtime import BackendError, DomainError, ImageError, Runtime
from da3.runtime.backends.sessions import open_session as onnxruntime_session
from da3.runtime.onnx_graph.whole import whole_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.records import Block, ExitRule
from da3.runtime.schedule.flops import flops_share
from da3.toolchain.bench.engine import bench_bundle, break_even, cold_load_ms, compare, switch_us
from da3.toolchain.bench.engine_cases import choose_blocks
from da3.toolchain.bench.engine_process import start_fresh
from da3.toolchain.bench.tables import run_table

GATED_NAMES = ("monolithic", "all-on", "gated", "skip-25", "skip-50", "skip-75")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(folder, {domain: weights}); shared, so never write into it."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    return folder, write_bundle(folder)


@pytest.fixture
def runtime(built):
    with Runtime(built[0]) as opened:
        yield opened


@pytest.mark.parametrize("batch", [1, 4])
def test_compare(runtime, batch):
    x = images(9)
    blocks = runtime.bundle.manifest.blocks
    result = compare(runtime, x, "flowers", repeats=3, batch_size=batch)
    rows = {row["name"]: row for row in result["rows"]}
    assert tuple(rows) == GATED_NAMES
    assert rows["monolithic"]["flops_share"] == rows["all-on"]["flops_share"] == 1.0
    assert rows["monolithic"]["ratio_to_monolithic"] == 1.0
    used = x[: 9 // batch * batch]
    expected = flops_share(blocks, runtime.run_batch(used, "flowers").blocks).mean()
    assert rows["gated"]["flops_share"] == pytest.approx(expected) and expected < 1
    for row in result["rows"]:
        assert row["batch"] == batch and 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["ratio_to_monolithic"] == pytest.approx(row["p50_ms"] / rows["monolithic"]["p50_ms"])
        assert row["images_per_second"] == pytest.approx(1e3 * batch / row["p50_ms"])
        if row["flops_share"] < 1:
            gained = 1 - row["ratio_to_monolithic"]
            assert row["gain_per_flop"] == pytest.approx(gained / (1 - row["flops_share"]))
    assert result["ratio"] == pytest.approx(rows["all-on"]["p50_ms"] / rows["gated"]["p50_ms"])
    for key in ("machine", "cpus", "python", "numpy", "onnxruntime", "image_size", "repeats", "timed"):
        assert result["conditions"][key]


@pytest.fixture(scope="module")
def with_exits(tmp_path_factory):
    """A folder with a bundle whose domains have exits: half of the pictures leave at the first and half of the rest at
    the second; "closes" closes block 1 as well, and "stays" lets nobody leave."""
    folder = tmp_path_factory.mktemp("exits") / "bundle"
    weights = write_exits_bundle(folder, ("leaves", "closes", "stays"))
    for name, closed in (("leaves", ()), ("closes", (1,))):
        answers = Backbone().answers(images(8), weights[name], closed)
        first = confidence(answers[0])
        rest = confidence(answers[1])[first <= np.median(first)]
        write_exits_domain(
            folder / "domains" / name, name, weights[name], (np.median(first), np.median(rest)), closed=list(closed)
        )
    return folder


def test_a_domain_with_exits(with_exits):
    with Runtime(with_exits) as runtime:
        rows = {row["name"]: row for row in compare(runtime, images(8), "leaves", repeats=2)["rows"]}
        assert tuple(rows) == ("monolithic", "all-on", "parts", "gated", "exit-0", "exit-1")
        shares = {name: row["flops_share"] for name, row in rows.items()}
        assert shares == pytest.approx(
            {
                "monolithic": 1,
                "all-on": 1,
                "parts": 1,
                "exit-0": 1 / 6,
                "exit-1": 0.5,
                "gated": (4 + 2 * 3 + 2 * 6) / 48,
            }
        )
        assert {name: row["calls"] for name, row in rows.items()} == {
            "monolithic": 1, "all-on": 1, "parts": 3, "exit-0": 1, "exit-1": 2, "gated": (4 + 2 * 2 + 2 * 3) / 8
        }  # fmt: skip
        assert rows["gated"]["left"] == [0.5, 0.25, 0.25] and rows["parts"]["left"] == [0, 0, 1]
        assert rows["exit-1"]["left"] == [0, 1, 0] and rows["monolithic"]["left"] == []
        assert runtime.loaded == ["leaves"]


def test_a_domain_that_closes_blocks(with_exits):
    with Runtime(with_exits) as runtime:
        runtime.use("stays")
        rows = {row["name"]: row for row in compare(runtime, images(8), "closes", repeats=1, batch_size=4)["rows"]}
        assert tuple(rows) == ("monolithic", "all-on", "closed", "parts", "gated", "exit-0", "exit-1")
        assert rows["monolithic"]["flops_share"] == rows["all-on"]["flops_share"] == 1
        assert rows["closed"]["flops_share"] == rows["parts"]["flops_share"] == pytest.approx(420 / 600)
        assert (rows["closed"]["calls"], rows["parts"]["calls"]) == (1, 3)
        assert rows["exit-1"]["flops_share"] == pytest.approx(120 / 600)
        assert runtime.domain.name == "stays" and runtime.loaded == ["closes", "stays"]


def test_a_domain_where_nobody_leaves(with_exits):
    with Runtime(with_exits, backend="reference") as runtime:
        rows = {row["name"]: row for row in compare(runtime, images(2), "stays", repeats=1)["rows"]}
        assert rows["gated"]["calls"] == 1 and rows["gated"]["left"] == [0, 0, 1] and rows["parts"]["calls"] == 3


def test_thresholds_in_memory_are_what_is_timed(with_exits):
    with Runtime(with_exits) as runtime:
        runtime.load("stays")
        runtime.set_exits("stays", exits=[ExitRule(0.0), ExitRule(None)])
        result = compare(runtime, images(2), "stays", repeats=1, names=("all-on", "gated"))
        assert [row["name"] for row in result["rows"]] == ["all-on", "gated"]
        assert result["rows"][1]["left"] == [1, 0, 0] and result["ratio"] > 0


def test_the_share_that_leaves_is_in_the_table(with_exits):
    report = bench_bundle(str(with_exits), "leaves", repeats=1, most=4)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(run_table(report))
    text = console.export_text()
    assert "left at exit 1" in text and "ran to the end" in text


def test_a_backend_without_a_monolithic_model(built):
    with Runtime(built[0], backend="reference") as runtime:
        result = compare(runtime, images(2), "flowers", repeats=2)
    assert [row["name"] for row in result["rows"]] == list(GATED_NAMES[1:])
    assert {row["ratio_to_monolithic"] for row in result["rows"]} == {None} and result["break_even_skip"] is None


def test_the_monolithic_model_is_the_same_network(built, runtime):
    x = images(3)
    session = onnxruntime_session(write_model(whole_model(runtime.bundle, runtime.load("flowers"))))
    (logits,) = session.run(["logits"], {"image": x})
    expected, _ = Backbone().reference(x, built[1]["flowers"], gated=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_blocks_to_skip_hold_that_share(share):
    rng = np.random.RandomState(0)
    blocks = [Block(f"b{i}", float(f), float(f) * (i % 3) / 10) for i, f in enumerate(rng.uniform(1, 9, 12) * 1e6)]
    blocks.insert(0, Block("first", 5e6, None))
    sizes = [0 if b.skip_flops is None else b.flops - b.skip_flops for b in blocks]
    chosen = choose_blocks(blocks, share)
    assert 0 not in chosen and sum(sizes[i] for i in chosen) == pytest.approx(share * sum(sizes), rel=0.01)
    assert choose_blocks(blocks[:1], share) == ()


def row(name, share, ratio):
    return {"name": name, "flops_share": share, "ratio_to_monolithic": ratio}


def test_break_even():
    slow = [row("monolithic", 1.0, 1.0), row("all-on", 1.0, 1.1), row("skip-25", 0.8, 1.02), row("skip-50", 0.6, 0.9)]
    assert break_even(slow) == pytest.approx(0.2 + 0.2 * 0.02 / 0.12)
    assert break_even([row("all-on", 1.0, 0.99), row("skip-25", 0.8, 0.8)]) == 0
    assert break_even(slow[:3]) is None


def test_nothing_to_time(runtime):
    with pytest.raises(ImageError, match="nothing to time: 2 images, batches of 4"):
        compare(runtime, images(2), "flowers", batch_size=4)


def test_switch_and_load(runtime):
    runtime.use("signs")
    for loaded in (1, 10):
        assert 0 < switch_us(runtime, "flowers", loaded, repeats=50) < 1000
        assert runtime.domain.name == "signs" and runtime.loaded == ["flowers", "signs"]
    assert 0 < cold_load_ms(runtime, "flowers", repeats=3) < 20


def test_bench_bundle(built):
    report = bench_bundle(str(built[0]), "signs", repeats=2, most=4, batch_sizes=(1, 2))
    assert report["domain"] == "signs" and report["conditions"]["images"] == 4
    assert report["conditions"]["pictures"] == "noise" and report["conditions"]["batch"] == [1, 2]
    assert [row["batch"] for row in report["rows"]] == [1] * 6 + [2] * 6
    assert set(report["switch_us_by_loaded"]) == {"1", "10", "100"} and report["switch_us"] > 0
    assert report["cold_load_ms"] > 0 and report["startup_ms"] > 10
    assert 1e7 < report["memory_bytes"] < 1e9 and 0 < report["memory_growth_bytes"] < report["memory_bytes"]
    json.dumps(report)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(run_table(report))
    text = console.export_text()
    assert "skip-75" in text and f"{report['startup_ms']:.0f} ms" in text
    with pytest.raises(DomainError, match="which domain"):
        bench_bundle(str(built[0]))


def test_a_fresh_process_that_fails_says_why(tmp_path):
    with pytest.raises(BackendError, match="a fresh process could not open .*nothing.*does not exist"):
        start_fresh(str(tmp_path / "nothing"), "flowers")


def test_the_command_times_photos_and_loads_no_pytorch(built, tmp_path):
    """On a device there may be no PyTorch, and it would take longer to load than all that is measured."""
    bundle = Path(shutil.copytree(built[0], tmp_path / "bundle"))
    shutil.rmtree(bundle / "domains" / "signs")
    for i in range(40):
        Image.fromarray(np.full((20, 20, 3), 6 * i, np.uint8)).save(tmp_path / f"{i}.png")
    code = (
        "import sys; from da3.toolchain.cli.commands import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    plot = tmp_path / "plots" / "run.png"
    words = ["bench", "run", bundle, "--images", f"{tmp_path}/*.png", "--repeats", "1", "--json", "--plot", plot]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["domain"] == "flowers"
    assert report["conditions"]["images"] == 32 and report["conditions"]["pictures"] == "photos"
    assert plot.read_bytes().startswith(b"\x89PNG")
