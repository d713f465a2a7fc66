"""The self-test: it passes where all is well, on every backend, and finds and names each kind of damage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import synthetic_bundle
from selftest_bundles import Heard, add_goldens, edit, new_report, replace_file, run_here
from simulation import RELEASES, simulated
from trt_answers import NEWEST, PYTHON

from da3.runtime import Runtime
from da3.runtime.backends import onnxruntime as ort_backend
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.cuda.cuda_python import CudaPython
from da3.runtime.errors import BundleError, Da3Error
from da3.runtime.execution import program
from da3.runtime.selftest import (
    Decided,
    Listener,
    golden_pictures,
    parse_goldens,
    relative_error,
    run_selftest,
    stage_parts,
    stage_pipeline,
    stage_timing,
    stage_whole,
    summarised,
    tried_domain,
    write_goldens,
)
from da3.runtime.selftest.findings import Teller
from da3.runtime.selftest.machine import sensors, slow_clocks, system_texts
from da3.runtime.selftest.noise import noise, signs
from da3.runtime.selftest.stage_pipeline import judge
from da3.runtime.selftest.stage_whole import judge_speed
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines

QUICK = ("8.2.1", "10.3.0", NEWEST)  # of the releases; the slow tests have the others
IN_PROCESS = ("engines", "parts", "pipeline", "timing", "memory")
NOISE = [15844753, 13061837, 12093919]
SIGNS = [-1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]
PICTURES = 1144446
SILENT = Listener(lambda line: None, lambda text: None)


@pytest.fixture
def exits(exits_bundle):
    """A bundle with exits and golden values; photos leave at them."""
    for number, name in enumerate(("flowers", "signs")):
        rules = [{"threshold": t, "temperature": 1.0} for t in (None, 0.4 + 0.1 * number)]
        edit(exits_bundle / "domains" / name / "domain.json", lambda content, rules=rules: content.update(exits=rules))
    return add_goldens(exits_bundle)


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    """Nobody waits for figures here, and none decides."""
    monkeypatch.setattr(stage_whole, "SLACK_MS", 1000.0)
    monkeypatch.setattr(stage_timing, "_RUNS", (3, 3))
    monkeypatch.setattr(stage_timing, "_PHOTO", (300, 400))
    monkeypatch.setattr(stage_parts, "_ROUNDS", 3)
    monkeypatch.setattr(stage_pipeline, "_DRIFT", (120, 20))
    monkeypatch.setattr(stage_pipeline, "_RUNS_EACH", 5)


# -- where all is well


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_the_command_passes(call, exits, backend, tmp_path):
    out = tmp_path / "report"
    done = call(
        "-m", "da3.runtime", "selftest", "--bundle", exits, "--backend", backend, "--quick", "--out", out, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    found = [finding for stage in report["stages"] for finding in stage["findings"]]
    failed = {finding["name"] for finding in found if finding["status"] == "FAIL"}
    assert failed <= {"speed beside one engine"}, done.stdout  # a busy machine may be late
    assert (done.returncode, report["result"]) == ((1, "FAIL") if failed else (0, "PASS"))
    assert [stage["name"] for stage in report["stages"]] == [
        "environment",
        "engines",
        "parts",
        "pipeline",
        "timing",
        "whole",
        "memory",
    ]
    assert {stage["ended"] for stage in report["stages"]} == {"done"}
    names = [finding["name"] for finding in found]
    for wanted in ("batch of 1", "batch of 3", "batch of 8", "mixed rows", "all parts", "part 3"):
        assert any(wanted in name for name in names), wanted
    for wanted in (
        "4 threads",
        "drift",
        "speed beside one engine",
        "peak memory",
        "handing a picture over and back",
        "doctor",
    ):
        assert wanted in names
    text = (tmp_path / "report.txt").read_text()
    assert text.startswith("da3 ") and f"selftest: {report['result']}" in text and "no problems found" in text


def test_every_stage_passes_with_gates_and_without_golden_values(built):
    heard = run_here(built[0], *IN_PROCESS, "whole", backend="onnxruntime", quick=True)
    assert heard.failed == []
    assert any("computing golden values in numpy" in line.get("begin", "") for line in heard.lines)
    assert "domain flowers, batch of 8, mixed rows" in heard.of("PASS")
    assert sum("part" in name for name in heard.of("PASS")) >= 6, "what skips a block is a part too"


@pytest.mark.parametrize(
    "release, precision",
    [
        *(pytest.param(release, "fp32", marks=() if release in QUICK else pytest.mark.slow) for release in RELEASES),
        ("8.2.1", "fp16"),
        (NEWEST, "fp16"),
    ],
)
def test_every_stage_passes_on_the_doubles(release, precision, exits):
    with simulated(tensorrt=release):
        build_engines(exits, precision, (1, 4))
        heard = run_here(exits, *IN_PROCESS, "whole", backend="tensorrt", quick=True)
    assert heard.failed == []
    assert heard.findings[0][2].endswith(f" s in {precision}")
    facts = [heard.values[name] for name in heard.of("PASS") if name.startswith("engine of ")]
    assert len(facts) == 3 and all(fact["plan_bytes"] > 0 and fact["layers"] for fact in facts)
    assert max(fact["scratch_bytes"] for fact in facts) > 0
    assert len(heard.notes["parts of the backbone"]) == 3


def test_gates_and_graphs_on_the_doubles(bundle):
    add_goldens(bundle)
    with simulated(tensorrt=NEWEST, cuda=PYTHON):
        build_engines(bundle, "fp32", (1, 8))
        heard = run_here(bundle, *IN_PROCESS, "whole", backend="tensorrt")
    assert heard.failed == []
    assert "one engine for the whole" in heard.of("PASS") and "speed beside one engine" in heard.of("PASS")
    rows = heard.notes["parts of the backbone"]
    assert all({"p50 ms", "p50 ms eager"} <= set(row) for row in rows.values()), "with CUDA graphs and without"


def test_calls_are_timed_without_graphs_too(exits, monkeypatch):
    recorded = []
    capture = CudaPython.capture
    monkeypatch.setattr(CudaPython, "capture", lambda *args: recorded.append(args) or capture(*args))
    with simulated(tensorrt=NEWEST, cuda=PYTHON), Bundle(exits) as bundle:
        build_engines(exits, "fp32", (1, 1))
        for eager in (True, False):
            opened = stage_parts._Opened(
                TensorRTBackend(), bundle, tried_domain(bundle.manifest), readable=False, eager=eager
            )
            assert opened.eager == eager
            stage_parts._timed(opened)
            assert bool(recorded) != eager
            opened.close()


# -- each kind of damage is found, and named


def damaged(path, change):
    """The bytes of an ONNX file whose first weights are changed."""
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    array = np.array(onnx.numpy_helper.to_array(weights))
    change(array)
    weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    return model.SerializeToString()


def zero_a_channel(array):
    array[1] = 0


def make_nan(array):
    array[0, 0, 0, 0] = np.nan


def test_a_wrong_weight_in_one_file(exits):
    replace_file(exits, "backbone/block_1.onnx", damaged(exits / "backbone" / "block_1.onnx", zero_a_channel))
    heard = run_here(exits, "parts", "pipeline", "whole", backend="onnxruntime", quick=True)
    alone = {name: text for name, text in heard.failed if ", part " in name}
    assert list(alone) == ["the backbone, part 2 (adaptor to classifier_carry)"]
    assert "x2 is off by" in next(iter(alone.values()))
    names = [name for name, _ in heard.failed]
    assert "the backbone, all parts" in names and "domain flowers, batch of 3" in names
    assert "one engine for the whole" in names, "the files are wrong, not how they are cut"
    text = dict(heard.failed)["the backbone, its files in numpy"]
    assert "x2, which block_1 writes, is the first that is off" in text


@pytest.mark.parametrize("release", ["8.2.1", NEWEST])
def test_a_wrong_weight_in_one_engine(release, exits, tmp_path):
    other = tmp_path / "other"
    synthetic_bundle.write_exits_bundle(other)
    replace_file(other, "backbone/block_1.onnx", damaged(other / "backbone" / "block_1.onnx", zero_a_channel))
    with simulated(tensorrt=release):
        build_engines(exits, "fp32", (1, 4))
        build_engines(other, "fp32", (1, 4))
        put_engine(exits, other, "block_1")
        heard = run_here(exits, "engines", "parts", "whole", backend="tensorrt")
    names = [name for name, _ in heard.failed]
    assert names[0] == "the backbone, part 2 (adaptor to exit)"
    assert "the backbone, part 1 (stem to exit)" in heard.of("PASS")
    assert {"one engine for the whole", "the backbone, its files in numpy"} <= set(heard.of("PASS"))


def put_engine(bundle, other, segment):
    """Put the engine of another bundle's part in the place of the same part's, as its index would have it."""
    (ours,), (theirs,) = (list((folder / "engines").glob("*/engines.json")) for folder in (bundle, other))
    (wrong,) = [e for e in json.loads(theirs.read_text())["engines"].values() if segment in e["name"].split("+")]
    content = json.loads(ours.read_text())
    (entry,) = [e for e in content["engines"].values() if segment in e["name"].split("+")]
    (ours.parent / entry["plan"]).write_bytes((theirs.parent / wrong["plan"]).read_bytes())
    entry.update(sha256=wrong["sha256"], bytes=wrong["bytes"])
    ours.write_text(json.dumps(content))


def test_a_number_that_is_none(exits):
    replace_file(exits, "backbone/block_2.onnx", damaged(exits / "backbone" / "block_2.onnx", make_nan))
    heard = run_here(exits, "parts", "pipeline", backend="onnxruntime", quick=True)
    failed = dict(heard.failed)
    assert "NaN or infinite" in failed["the backbone, part 3 (adaptor to head_carry)"]
    assert "NaN or infinity" in failed["the backbone, batch of 1"]
    assert {"switches between 2 domains", "4 threads"} <= set(failed)
    assert "drift" in heard.of("PASS"), "its pictures leave before"
    assert "the backbone, part 2 (adaptor to classifier_carry)" in heard.of("PASS")


def test_an_exit_that_lets_others_go(exits, monkeypatch):
    monkeypatch.setattr(program, "spread_one", lambda logits, scale: float("inf"))
    heard = run_here(exits, "pipeline", backend="onnxruntime", quick=True)
    failed = dict(heard.failed)
    text = failed["domain flowers, batch of 1"]
    assert "run to the end where it should leave at exit 1, margin 0." in text
    assert "the backbone, batch of 1" in heard.of("PASS"), "nobody leaves there"


def test_a_gate_that_flips(bundle, monkeypatch):
    add_goldens(bundle)
    monkeypatch.setattr(program, "opens", lambda logits, theta: logits < theta)
    heard = run_here(bundle, "pipeline", backend="reference", quick=True)
    text = dict(heard.failed)["domain flowers, batch of 3"]
    assert "block" in text and "margin" in text and ("runs" in text or "skips" in text)


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda folder: next(folder.rglob("*.plan")).write_bytes(b"an engine"), "wrong sha256"),
        (lambda folder: next(folder.rglob("*.plan")).unlink(), "cannot be read"),
        (lambda folder: edit(next(folder.rglob("engines.json")), lambda c: c.update(tensorrt="8.4.0")), "8.4.0"),
    ],
)
def test_a_stale_plan(exits, spoil, sentence):
    with simulated(tensorrt="8.6.1"):
        build_engines(exits, "fp32", (1, 4))
        spoil(exits / "engines")
        heard = run_here(exits, "engines", "parts", "pipeline", backend="tensorrt", quick=True)
    assert {name for name, _ in heard.failed} >= {"the backbone"}
    assert all(sentence in text for name, text in heard.failed), heard.failed


def test_engines_of_an_earlier_export(exits):
    with simulated(tensorrt="8.6.1"):
        build_engines(exits, "fp32", (1, 4))
        replace_file(exits, "backbone/block_1.onnx", damaged(exits / "backbone" / "block_1.onnx", zero_a_channel))
        heard = run_here(exits, "engines", backend="tensorrt", quick=True)
    assert all("engines are built" in text or "other ONNX files" in text for _, text in heard.failed)
    assert heard.failed


def test_a_slow_engine(exits, monkeypatch):
    monkeypatch.setattr(stage_whole, "SLACK_MS", 1.0)
    bind = ort_backend._OrtContext.bind

    def slow(context, subgraph, weights):
        call = bind(context, subgraph, weights)

        def late():
            time.sleep(0.03)
            call()

        return late if "block_1" in subgraph.segment.name.split("+") and len(subgraph.steps) < 6 else call

    monkeypatch.setattr(ort_backend._OrtContext, "bind", slow)
    heard = run_here(exits, "parts", "timing", "whole", backend="onnxruntime", quick=True)
    assert [name for name, _ in heard.failed] == ["speed beside one engine"]
    text = heard.failed[0][1]
    assert "too slow" in text and "part 2 (adaptor to classifier_carry)" in text and "% of the time" in text


def test_speed_is_judged_beside_the_whole(monkeypatch):
    monkeypatch.setattr(stage_whole, "SLACK_MS", 1.0)
    finding = {"status": "PASS", "name": "x", "text": "", "values": {"key": "all blocks", "p50": 12.0}}
    for whole, status in ((3.0, "FAIL"), (6.0, "PASS")):
        heard = Heard()
        judge_speed(Teller(heard), whole, "fp32", {"findings": [finding], "notes": {}})
        assert heard.of(status) == ["speed beside one engine"]
    heard = Heard()
    judge_speed(Teller(heard), 1.0, "fp32", {})
    assert heard.of("SKIP") == ["speed beside one engine"]


@pytest.mark.parametrize(
    "damage, ended, words",
    [
        ("crash", "was ended by SIGSEGV", ""),
        ("exit", "ended with exit code 1", "a library ended the process"),
        ("hang", "said nothing for 2 s and was stopped", ""),
    ],
)
def test_a_process_that_does_not_end_well(damage, ended, words, exits, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFTEST_DAMAGE", f"engines:{damage}")
    options, report = new_report(tmp_path, exits, backend="reference", quick=True, timeout=2)
    lines = []
    listener = Listener(lines.append, lambda text: None)
    assert run_selftest(options, report, listener, "selftest_child", ["engines", "parts"]) == "FAIL"
    content = json.loads((tmp_path / "report.json").read_text())
    bad, good = content["stages"]
    assert bad["ended"] == ended and [f["status"] for f in bad["findings"]] == ["FAIL"]
    assert bad["findings"][0]["text"] == f"the process of this stage {ended}, at: the last thing it did"
    assert words in "\n".join(bad["last words"])
    assert good["ended"] == "done" and {f["status"] for f in good["findings"]} == {"PASS"}
    assert "the last thing it did" in (tmp_path / "report.txt").read_text()
    assert any("FAIL" in line for line in lines)


def test_what_libraries_print_is_no_finding(exits, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFTEST_DAMAGE", "environment:babble")
    options, report = new_report(tmp_path, exits, backend="reference", quick=True)
    assert run_selftest(options, report, SILENT, "selftest_child", ["environment"]) == "PASS"
    assert report.content["stages"][0]["notes"]["doctor"] == "no problems found"


def test_the_report_is_there_when_the_whole_test_is_killed(exits, tmp_path, package_root):
    env = dict(os.environ, SELFTEST_DAMAGE="engines:hang", PYTHONPATH=f"{package_root}:{Path(__file__).parent}")
    code = (
        "from selftest_bundles import new_report\nfrom da3.runtime.selftest import Listener, run_selftest\n"
        f"import pathlib\no, r = new_report(pathlib.Path({str(tmp_path)!r}), {str(exits)!r}, backend='reference')\n"
        "run_selftest(o, r, Listener(print, lambda text: None), 'selftest_child', ['engines'])"
    )
    running = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL)
    path = tmp_path / "report.json"
    try:
        until = time.time() + 30
        while time.time() < until and not (path.exists() and '"name": "engines"' in path.read_text()):
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) != 0
    finally:
        running.kill()
        running.wait()
    content = json.loads(path.read_text())
    assert content["result"] == "INTERRUPTED" and content["stages"][0]["ended"] == "RUNNING"


def test_a_report_that_cannot_be_written(exits, tmp_path):
    (tmp_path / "file").write_text("")
    options, report = new_report(tmp_path / "file", exits)
    with pytest.raises(Da3Error, match="cannot be written .*--out"):
        run_selftest(options, report, SILENT, "selftest_child")


def test_a_damaged_bundle(exits):
    (exits / "backbone" / "stem.onnx").write_bytes(b"x")
    heard = run_here(exits, "environment", "parts", "pipeline", "memory", backend="reference", quick=True)
    failed = dict(heard.failed)
    assert "stem.onnx" in failed["environment"] and "stem.onnx" in failed["the backbone"]


def test_a_damaged_domain_does_not_hide_the_next(exits):
    (exits / "domains" / "flowers" / "weights.safetensors").write_bytes(b"x")
    heard = run_here(exits, "parts", "pipeline", "timing", backend="reference")
    assert {name for name, _ in heard.failed} == {"domain flowers"}
    assert {"domain signs, all parts", "domain signs, batch of 3"} <= set(heard.of("PASS"))


def test_a_domain_without_exits_in_a_bundle_with_exits(exits):
    """As one that an older da3 trained: its adaptor has none, and nobody leaves."""
    place = exits / "domains" / "signs" / "domain.json"
    edit(place, lambda content: content.update(adaptor=synthetic_bundle.ADAPTOR, exits=[]))
    heard = run_here(exits, "parts", "pipeline", "timing", backend="reference")
    assert heard.failed == []
    assert "domain signs, mixed rows" in heard.of("SKIP")


# -- decisions that rounding may make otherwise


def test_a_flip_within_rounding_is_excused():
    domain = type("Domain", (), {"exits": (synthetic_rule(0.5),), "temperature": 1.0})
    for gap, status in ((1e-4, "PASS"), (0.5, "FAIL")):
        logits = np.array([[[0.0, gap], [0.0, 1.0]]], np.float32)
        expected = Decided.of(logits, domain, 1e-3)
        assert expected.left.tolist() == [0]
        result = type("Result", (), {"logits": logits[:, 1], "left": np.array([1]), "blocks": np.ones((1, 1), bool)})
        heard = Heard()
        truth = type("Truth", (), {"gates": None})
        judge(Teller(heard), "x", truth, [0], expected, result, tolerance())
        assert heard.of(status) == ["x"], heard.findings


def synthetic_rule(threshold):
    from da3.runtime.records import ExitRule

    return ExitRule(threshold)


def tolerance():
    from da3.runtime.selftest.tolerances import BY_PRECISION

    return BY_PRECISION["fp32"]._replace(chain=1e-3)


# -- golden values


def test_generated_numbers_are_the_same_everywhere():
    """They are part of the format: golden values were computed of them."""
    assert (noise((3,), "value x6") * 2**24).astype(np.int64).tolist() == NOISE
    assert signs(8, "128 elements").tolist() == SIGNS
    assert int(golden_pictures().astype(np.int64).sum()) == PICTURES
    many = noise((100000,), "many")
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01
    assert abs(signs(100000, "many").mean()) < 0.02


def test_a_summary_shows_one_wrong_channel():
    value = noise((2, 64, 20, 20), "a value") - 0.5
    wrong = value.copy()
    wrong[:, 17] = 0
    assert summarised(value).shape == (2, 32)
    assert relative_error(summarised(wrong), summarised(value)) > 0.1
    assert relative_error(summarised(value + 1e-5), summarised(value)) < 1e-3
    turned = np.ascontiguousarray(value[..., ::-1, ::-1])
    assert relative_error(summarised(turned), summarised(value)) > 0.1, "sums alone would be the same"
    run = value[0].reshape(-1)[:800] * signs(64 * 400, "25600 elements")[:800]
    assert summarised(value)[0, 0] == pytest.approx(run.sum() / 800**0.5, rel=1e-5)
    assert np.array_equal(summarised(value[:, :64, 0, 0]), value[:, :64, 0, 0]), "few numbers are kept as they are"
    assert summarised(value, whole=True).shape == (2, 64 * 400)


def test_golden_values_there_and_back(exits):
    with Bundle(exits) as bundle:
        data = bundle.read("backbone/goldens.safetensors")
    goldens = parse_goldens(data, "x")
    assert write_goldens(goldens) == data and len(data) < 30_000
    assert goldens.pictures.shape == (3, 32, 32, 3) and {"x1", "x2", "logits0", "logits"} <= set(goldens.chain)
    assert set(goldens.starts) == {"x1", "logits0", "x2", "logits1"}
    from da3.runtime.bundle.safetensors import parse_safetensors, write_safetensors

    tensors, metadata = parse_safetensors(data, "x")
    for wrong in (
        write_safetensors(tensors, {**metadata, "format": "2"}),
        write_safetensors(tensors, {**metadata, "chain": "[]"}),
        write_safetensors({**tensors, "pictures": tensors["pictures"][:1]}, metadata),
        write_safetensors(tensors, {}),
    ):
        with pytest.raises(BundleError, match="^x "):
            parse_goldens(wrong, "x")


def test_golden_values_of_other_closed_blocks_are_not_used(exits):
    edit(exits / "domains" / "flowers" / "domain.json", lambda content: content.update(closed=[1]))
    heard = run_here(exits, "parts", backend="reference", quick=True)
    assert heard.failed == []
    said = [line["begin"] for line in heard.lines if "begin" in line]
    assert any("those it has are of other closed blocks" in text for text in said)


def test_packs_carry_golden_values(exits, tmp_path):
    from da3.runtime.bundle.packs import add_pack, remove_domain, update_domain, write_pack

    path = write_pack(exits, "flowers", tmp_path)
    remove_domain(exits, "flowers")
    add_pack(exits, path)
    assert (exits / "domains" / "flowers" / "goldens.safetensors").exists()
    update_domain(exits, "flowers", temperature=2.0)
    with Bundle(exits) as bundle:
        bundle.verify()
    assert any("domain flowers" in name for name in run_here(exits, "parts", backend="reference").of("PASS"))
    (exits / "domains" / "flowers" / "goldens.safetensors").write_bytes(b"x")
    with Bundle(exits) as bundle, pytest.raises(BundleError, match="goldens.safetensors"):
        bundle.verify()
    (exits / "domains" / "flowers" / "goldens.safetensors").unlink()  # as an older da3 carries a domain on
    with Bundle(exits) as bundle:
        bundle.verify()
    with Runtime(exits, backend="reference") as runtime:
        runtime.use("flowers")


def test_a_part_can_be_run_alone_on_every_layout_of_features():
    from da3.runtime.trt.formats import pack, unpack

    value = noise((2, 11, 4, 3), "a value").astype(np.float16).astype(np.float32)
    for layout in ("LINEAR", "CHW2", "HWC8"):
        assert np.array_equal(unpack(pack(value, "float16", layout), value.shape, layout), value), layout


# -- the board


def test_a_board_says_what_it_is(tmp_path):
    for name, text in {
        "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1\n",
        "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "102000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1479000\n",
        "sys/class/devfreq/57000000.gpu/cur_freq": "921600000\n",
        "sys/class/devfreq/57000000.gpu/max_freq": "921600000\n",
        "sys/class/thermal/thermal_zone0/type": "GPU-therm\n",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone1/type": "broken\n",
        "sys/class/thermal/thermal_zone1/temp": "not a number\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert system_texts(str(tmp_path)) == {
        "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1",
        "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit",
    }
    found = sensors(str(tmp_path))
    assert found == {
        "clocks": {"cpu0": [102000, 1479000], "57000000.gpu": [921600000, 921600000]},
        "temperatures": {"GPU-therm": 41.5},
    }
    assert slow_clocks(found) == ["cpu0"]
    assert sensors(str(tmp_path / "nothing")) == {"clocks": {}, "temperatures": {}}
