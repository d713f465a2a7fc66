"""INT8 ranges are of what convolutions read, INT8 agrees with float32, and no bundle is left half-changed."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from da3.calib import calibrate_int8
from da3.calib.errors import CalibrationError
from da3.calib.ranges import BINS, Histogram, Watched, ranges_of
from da3.export.exporter import export_domain
from da3.runtime import Runtime
from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.backends.reference import ReferenceBackend
from da3.runtime.bundle import changing, put_file, to_json
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.bundle.packs import update_domain
from da3.runtime.calibration import confidence
from da3.runtime.errors import BundleError, Da3Error
from da3.runtime.images.paths import expand
from da3.runtime.onnx_graph.int8_ranges import INT8_FILE, read_ranges
from da3.runtime.onnx_graph.int8_subgraphs import int8_subgraph
from da3.runtime.records import ExitRule
from da3.runtime.schedule.layout import join_plan
from da3.toolchain.cli.commands import app
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    """A bundle with a domain that closes blocks and whose pictures leave about half the time, `signs`, and the same
    with every block and nobody leaving, `plain`."""
    folder = tmp_path_factory.mktemp("int8")
    options = TrainOptions(
        domain="signs", data=str(photos), runs=folder / "runs", weights="demo", size=32, epochs=1, keep=0.5
    )
    train(options, SilentReporter())
    export_domain("signs", folder / "runs", folder / "bundle")
    domains = folder / "bundle" / "domains"
    shutil.copytree(domains / "signs", domains / "plain")
    described = json.loads((domains / "plain" / "domain.json").read_text())
    (domains / "plain" / "domain.json").write_text(json.dumps({**described, "name": "plain"}))
    stays = [ExitRule(None)] * len(described["exits"])
    update_domain(folder / "bundle", "plain", closed=[], exits=stays)
    with Runtime(folder / "bundle") as runtime:
        images = runtime.preprocessing.normalise(
            np.stack([runtime.preprocessing.load(path) for path in expand([photos / "val"])])
        )
        level = float(np.median(confidence(runtime.run_batch(images, "signs", leave_at=0).logits)))
    update_domain(folder / "bundle", "signs", exits=[ExitRule(level), *stays[1:]])
    return folder / "bundle"


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy to change."""
    return shutil.copytree(exported, tmp_path / "bundle")


@pytest.fixture(scope="module")
def measured(exported, photos, tmp_path_factory):
    """(A bundle that was measured, what was said of it); shared, so never write into it."""
    bundle = shutil.copytree(exported, tmp_path_factory.mktemp("measured") / "bundle")
    return bundle, calibrate_int8(bundle, {"signs": photos, "plain": photos / "train"})


def content(bundle):
    return {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}


def test_only_the_ranges_and_the_manifest_change(exported, measured):
    bundle, done = measured
    before, after = content(exported), content(bundle)
    assert set(after) - set(before) == {"backbone/int8.json"} and set(before) <= set(after)
    assert [name for name in before if before[name] != after[name]] == ["manifest.json"]
    listed = json.loads(after["manifest.json"])
    del listed["files"]["backbone/int8.json"]
    assert listed == json.loads(before["manifest.json"])
    with Bundle(bundle) as opened:
        opened.verify()
        ranges = read_ranges(opened)
    assert sum(map(len, ranges.convolutions.values())) == done.quantised < done.values
    assert json.loads(after["backbone/int8.json"])["domains"] == ["signs", "plain"]
    assert done.measured == 6 + 12 and [a.photos for a in done.agreements] == [6, 12] and not done.unreadable


def test_int8_agrees_with_float32(measured, photos):
    bundle, done = measured
    for agreement in done.agreements:
        assert agreement.same_answer >= 0.6
        assert agreement.logit_error < 0.1 * agreement.logit_largest
    assert done.agreements[0].same_decisions >= 0.7 and done.agreements[1].same_decisions is None
    paths = expand([photos / "val"])
    backends = (OrtBackend(), OrtBackend(precision="int8"), ReferenceBackend("int8"))
    logits = []
    for backend in backends:
        with Runtime(bundle, backend=backend) as runtime:
            found = runtime.run(paths, "plain")
            logits.append(np.stack([p.logits for p in found]))
    scale = np.abs(logits[0]).max()
    assert 0 < np.abs(logits[1] - logits[0]).max() < 0.1 * scale
    # Both round to the same numbers but where float32's own rounding decides; that is seldom, and one step.
    assert np.abs(logits[1] - logits[2]).mean() < 0.01 * scale


def test_every_sum_is_int8_where_nobody_may_leave(measured, bundle):
    """Each block's sum adds one rounded value to a convolution's result; by older measurements all stay floats."""
    with Bundle(measured[0]) as opened, Bundle(bundle) as older:
        everything = json.loads(opened.read(INT8_FILE))
        assert everything.pop("others").keys() > {"backbone/block_00.onnx"}
        put_file(older, INT8_FILE, to_json(everything))
    for folder, rounded in ((measured[0], 1), (bundle, 0)):
        with Bundle(folder) as opened:
            (subgraph,) = join_plan(opened.manifest, True, leaves=False).device_subgraphs
            model = int8_subgraph(subgraph, opened)
            back = {name for node in model.nodes if node.op == "DequantizeLinear" for name in node.outputs}
            ends = {name for step in subgraph.steps if step.block is not None for name in step.outputs}
            sums = [node.inputs for node in model.nodes if node.op == "Add" and ends.issuperset(node.outputs)]
            assert len(sums) == len(opened.manifest.blocks)
            assert [len(back.intersection(inputs)) for inputs in sums] == [rounded] * len(sums)
            assert back <= {name for node in model.nodes for name in node.inputs}, "a quantiser that nobody needs"


def test_what_replaces_a_closed_block_is_rounded_as_the_block_would(measured):
    """Several closed blocks share a file, but each value's magnitude is that of the block that would read it."""
    with Bundle(measured[0]) as opened:
        ranges, plan = read_ranges(opened), opened.manifest.plan
        closed = sorted(read_domain(opened, "signs").closed)
        (subgraph,) = join_plan(opened.manifest, True, leaves=False, closed=closed).device_subgraphs
        model = int8_subgraph(subgraph, opened)
    quantisers = {node.inputs[0]: node for node in model.nodes if node.op == "QuantizeLinear"}
    checked = 0
    for step in plan:
        if step.block in closed and step.inputs[0] in quantisers:
            file = opened.manifest.segments[step.segment].file
            largest = ranges.convolutions[file]["x"]
            scale = float(model.weights[quantisers[step.inputs[0]].inputs[1]])
            assert largest <= 127 * scale <= 1.001 * largest
            checked += 1
    assert checked >= 2


def test_depthwise_convolutions_stay_unless_asked_for(bundle, measured, photos):
    done = calibrate_int8(bundle, {"plain": photos}, depthwise=True)
    assert done.quantised == done.values == measured[1].values
    with Bundle(bundle) as opened, Bundle(measured[0]) as other:
        everything, usual = read_ranges(opened).convolutions, read_ranges(other).convolutions
        depthwise = Watched(opened).depthwise
    left_out = {(file, name) for file, names in everything.items() for name in names if name not in usual.get(file, {})}
    assert left_out == {key for key, alone in depthwise.items() if alone}


@pytest.mark.parametrize("all_blocks", [False, True])
def test_what_is_watched_is_what_the_runtime_computes(exported, photos, all_blocks):
    """Segment by segment, the watcher runs what the scheduler runs for a picture that does not leave."""
    seen = {}
    with Bundle(exported) as bundle, Runtime(exported) as runtime:
        watched, domain = Watched(bundle), read_domain(bundle, "signs")
        skipped = 0
        for path in expand([photos / "val"])[:4]:
            image = runtime.preprocessing.normalise(runtime.preprocessing.load(path)[None])
            seen.clear()
            complete = watched.run(domain, image, lambda file, name, x: seen.update({(file, name): x}), all_blocks)
            steps = [step for step in bundle.manifest.plan if step.block is not None]
            wanted, values = runtime.trace(image, [s.inputs[0] for s in steps], "signs", force_all_blocks=all_blocks)
            ran = wanted.blocks[0]
            skipped += int((~ran).sum())
            assert complete == ran.all()
            for step in steps:
                segment = bundle.manifest.segments[step.segment]
                entering = segment.inputs[0].name
                np.testing.assert_allclose(seen[segment.file, entering], values[step.inputs[0]], rtol=1e-3, atol=1e-3)
                inside = {name for file, name in seen if file == segment.file} - {v.name for v in segment.inputs}
                assert bool(inside) == ran[step.block]
    assert (skipped > 0) != all_blocks, "the domain must close blocks"


def test_a_histogram_grows_and_knows_its_percentiles():
    rng = np.random.default_rng(0)
    histogram, batches = Histogram(), [rng.normal(0, s, (10, 100, 30)).astype(np.float32) for s in (0.1, 1, 0.3, 5)]
    histogram.add(np.zeros((3, 3), np.float32))
    assert histogram.percentile(99) == 0.0
    for batch in batches:
        histogram.add(batch)
    everything = np.abs(np.concatenate([batch.ravel() for batch in batches]))
    assert histogram.counts.sum() == everything.size and histogram.percentile(100) == everything.max()
    for percent in (50, 90, 99, 99.99):
        assert histogram.percentile(percent) == pytest.approx(
            np.percentile(everything, percent), abs=2 * histogram.top / BINS
        )
    with pytest.raises(CalibrationError, match="not finite"):
        histogram.add(np.array([1, np.nan], np.float32))
    assert ranges_of({("f", "none"): Histogram(), ("f", "x"): histogram}, 100)["f"].keys() == {"x"}


def test_measured_again(measured, photos, tmp_path):
    bundle = shutil.copytree(measured[0], tmp_path / "again")
    before = content(bundle)
    assert calibrate_int8(bundle, {"signs": photos, "plain": photos / "train"}) == measured[1]
    assert content(bundle) == before
    calibrate_int8(bundle, {"plain": photos})
    after = content(bundle)
    assert {name for name in before if before[name] != after.get(name)} == {"backbone/int8.json", "manifest.json"}
    with Bundle(bundle) as opened:
        opened.verify()


@pytest.mark.parametrize(("step", "done"), [("replace_file", 0), ("replace_file", 1), ("_take_place", 0)])
def test_a_crash_leaves_a_sound_bundle(measured, photos, tmp_path, step, done, monkeypatch):
    bundle = shutil.copytree(measured[0], tmp_path / "bundle")
    with Bundle(bundle) as opened:
        before = read_ranges(opened)
    real, taken = getattr(changing, step), []

    def failing(*what):
        if len(taken) == done:
            raise OSError(28, "No space left on device")
        taken.append(what)
        real(*what)

    monkeypatch.setattr(changing, step, failing)
    with pytest.raises(BundleError, match="cannot write .*No space left"):
        calibrate_int8(bundle, {"signs": photos / "train"})
    with Bundle(bundle) as opened:
        opened.verify()
        assert (read_ranges(opened) == before) == (step == "replace_file"), "the old ranges, or the new ones"


@pytest.mark.parametrize("moment", ["reading photos of ", "measuring", "comparing with float32"])
def test_an_interrupt_changes_nothing(bundle, photos, moment):
    before = content(bundle)

    def interrupt(what, done, total):
        assert 0 < done <= total
        if what.startswith(moment) and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_int8(bundle, {"signs": photos}, on_progress=interrupt)
    assert content(bundle) == before


def test_unreadable_photos_are_named_and_left_out(bundle, photos, tmp_path):
    folder = shutil.copytree(photos / "val" / "class0", tmp_path / "photos")
    (folder / "broken.jpg").write_bytes(b"junk")
    done = calibrate_int8(bundle, {"plain": folder})
    assert done.measured == 2 and [path.endswith("broken.jpg") for path, _ in done.unreadable] == [True]


def test_bad_input(bundle, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "a.png")
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        for name, data in content(bundle).items():
            archive.writestr(name, data)
    (tmp_path / "broken").mkdir()
    for place, domain, folder, message in (
        (bundle, "signs", tmp_path / "empty", "holds no pictures"),
        (bundle, "signs", tmp_path / "none", "no such file or folder"),
        (bundle, "signs", tmp_path / "one", "1 of 1 photos can be read; INT8 needs 2"),
        (bundle, "signz", photos, "unknown domain 'signz'.*plain, signs"),
        (tmp_path / "zipped.zip", "signs", photos, "zipped bundle, which is read-only: unzip it"),
        (tmp_path / "empty", "signs", photos, "is not a bundle"),
    ):
        with pytest.raises(Da3Error, match=message) as caught:
            calibrate_int8(place, {domain: folder})
        assert "\n" not in str(caught.value)
    with pytest.raises(CalibrationError, match="name a domain"):
        calibrate_int8(bundle, {})
    (bundle / "backbone" / "tail.onnx").unlink()
    with pytest.raises(BundleError, match=r"tail\.onnx is missing; copy or export it again"):
        calibrate_int8(bundle, {"signs": photos})


def test_a_backbone_without_convolutions(bundle, photos):
    data = json.loads((bundle / "manifest.json").read_text())
    for entry in data["segments"].values():
        entry["file"] = entry["file"].replace("backbone/", "adaptors/")
    data["files"] = {name.replace("backbone/", "adaptors/"): entry for name, entry in data["files"].items()}
    for path in (bundle / "backbone").iterdir():
        path.rename(bundle / "adaptors" / path.name)
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match="no convolutions, so INT8 would change nothing"):
        calibrate_int8(bundle, {"signs": photos})


def test_command_line(bundle, photos, tmp_path):
    words = ["calibrate", "--bundle", str(bundle), "--domain", "signs", "--data", str(photos)]
    done = CliRunner().invoke(app, [*words, "--int8", "--domain", "plain", "--data", str(photos / "train")])
    assert done.exit_code == 0, done.output
    assert "same answer" in done.output and "signs" in done.output and "plain" in done.output
    for more, message in (
        ([], "choose one: a goal (--max-drop 0.5"),
        (["--int8", "--target-skip", "0.2"], "choose one"),
        (["--int8", "--domain", "plain"], "2 --domain and 1 --data: give one --data for each"),
        (["--int8", "--domain", "signs", "--data", str(photos)], "the same --domain twice"),
        (["--target-skip", "0.2", "--domain", "plain", "--data", str(photos)], "one --domain at a time"),
    ):
        failed = CliRunner().invoke(app, [*words, *more])
        assert isinstance(failed.exception, CalibrationError) and message in str(failed.exception)
