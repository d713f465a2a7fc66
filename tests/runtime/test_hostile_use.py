"""What a caller may get wrong, and what happens inside an engine: said in one line, for what it is."""

import json
import shutil
import tempfile

import numpy as np
import pytest
from hostile import changed, onnx_bytes, vouched
from synthetic_bundle import CHANNELS, X, images, read_manifest, write_manifest

from da3.runtime import BackendError, Bundle, BundleError, DomainError, Runtime
from da3.runtime.app import main
from da3.runtime.bundle import update_domain, write_pack
from da3.runtime.execution.answers import Naming
from da3.runtime.onnx_graph import INT8_FILE
from da3.runtime.records import BatchResult
from da3.runtime.trt.store import describe_sets


def test_a_pack_is_used_by_its_path(built, tmp_path):
    pack = write_pack(built[0], "flowers", tmp_path / "other.da3")
    with Runtime(built[0], backend="reference") as runtime:
        assert runtime.use(pack).name == "flowers" and runtime.domain.name == "flowers"
        assert runtime.loaded == ["flowers"]


@pytest.mark.parametrize("theta", [float("nan"), float("inf"), -float("inf")])
def test_theta_is_a_number(bundle, theta):
    with Runtime(bundle, backend="reference") as runtime:
        runtime.load("flowers")
        with pytest.raises(DomainError, match="theta is a finite number, not"):
            runtime.set_theta("flowers", theta)
        assert runtime.set_theta("flowers", 0.5).theta == 0.5
    with pytest.raises(DomainError, match="theta is a finite number, not"):
        update_domain(bundle, "flowers", theta=theta)


def test_an_answer_that_has_no_class(built):
    """So nobody asks for the name of a class that there is not."""
    with Runtime(built[0], backend="reference") as runtime:
        domain = runtime.load("flowers")
        result = runtime.run_batch(images(1), "flowers")
        odd = BatchResult(np.ones((1, 99), np.float32), result.blocks, domain, result.left)
        with pytest.raises(BackendError, match="flowers has 3 classes, and 99 numbers came as an answer"):
            Naming(runtime.bundle.manifest, domain)(odd)


def test_a_size_of_answers_that_no_tensor_has(bundle):
    """The graph then decides how many there are."""

    def change(content):
        for segment in content["segments"].values():
            for value in segment["inputs"]:
                value["shape"] = ["others" if n == "classes" else n for n in value["shape"]]

    changed(bundle / "manifest.json", change)
    with pytest.raises(DomainError, match="the plan's answers have the size 'classes', and no tensor of a domain has"):
        Runtime(bundle, backend="reference").load("flowers")


@pytest.mark.parametrize("magnitude", [1e300, 1e9])
def test_an_int8_magnitude_that_no_scale_has(bundle, magnitude):
    ranges = {"backbone/block_0.onnx": {"x": magnitude}}
    data = json.dumps({"format": 1, "percent": 99.9, "photos": 1, "domains": [], "ranges": ranges})
    vouched(bundle, INT8_FILE, data.encode())
    with pytest.raises(BundleError, match="x is 1e.*: 8.31901e[+]06 is the largest"):
        Runtime(bundle, backend="reference", precision="int8").load("flowers")


OVERFLOW = {"fp32": (3e38, "beyond what float32 holds"), "fp16": (6e4, "in fp16: float16 holds nothing beyond")}


@pytest.mark.parametrize("precision", OVERFLOW)
def test_overflow_is_said_for_what_it_is(bundle, precision):
    """In the gate of the next block, and not that the picture is to blame."""
    largest, reason = OVERFLOW[precision]
    huge = np.full((CHANNELS, CHANNELS, 3, 3), largest, np.float32)
    nodes = [("Conv", ["x", "k"], "c", {"pads": [1] * 4}), ("Add", ["c", "a"], "t", {}), ("Relu", ["t"], "y", {})]
    ends = {"x": X, "a": ["batch", CHANNELS, 1, 1]}, {"y": X}
    vouched(bundle, "backbone/block_0.onnx", onnx_bytes(nodes, {"k": huge}, *ends))
    message = r"domain flowers, the gate of block \d: NaN or infinity: .*" + reason
    with Runtime(bundle, backend="reference", precision=precision) as runtime:  # noqa: SIM117 (which of both raises)
        with pytest.raises(BackendError, match=message):
            runtime.run_batch(np.abs(images(1)), "flowers")


def test_without_a_folder_for_temporary_files(built, bundle, monkeypatch, capsys, tmp_path):
    from PIL import Image

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    shutil.rmtree(bundle / "engines", ignore_errors=True)  # in which another test may have stored graphs
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    words = ["run-engine", str(tmp_path / "x.png"), "--bundle", str(bundle), "--domain", "flowers"]
    with pytest.warns(RuntimeWarning, match="subgraphs keep their own memory layout"):
        assert main([*words, "--backend", "onnxruntime"], "da3") == 0
    main(["doctor"], "da3")
    assert main(["selftest", "--bundle", str(bundle), "--quick", "--out", str(tmp_path / "report.json")], "da3") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_metrics_of_any_kind_are_printed(bundle, capsys):
    odd = {"val_accuracy": 10**250, "x" * 10**5: [1] * 5, "\x1b[2J": "\x1b[2J"}
    told = {"metrics": odd, "provenance": {"begun": 7, "photos": []}}
    changed(bundle / "domains" / "flowers" / "domain.json", lambda content: content.update(told))
    for words in (["list"], ["info", "flowers"], ["info", "flowers", "--json"]):
        assert main(["domains", *words, "--bundle", str(bundle)], "da3") == 0
        printed = capsys.readouterr().out
        assert ("\x1b" not in printed and len(printed) < 2 * 10**5) or "--json" in words
    manifest = read_manifest(bundle)
    manifest["backbone"]["arch"] = "\x1b[2J"
    write_manifest(bundle, manifest)
    assert main(["domains", "list", "--bundle", str(bundle)], "da3") == 0
    assert "\x1b" not in capsys.readouterr().out


INDEXES = {
    "deep": b"[" * 10**5,
    "a huge integer": b'{"format": 2, "sm": 1' + b"0" * 400 + b"}",
    "infinite": b'{"format": 2, "sm": 1e999}',
    "not UTF-8": b"\xff",
    "a list": b"[]",
    "of other kinds": b'{"format": 2, "tensorrt": [], "gpu": {}, "sm": [], "batch": 3, "engines": 7}',
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_damaged_index_of_engines(bundle, name):
    """`doctor` says what there is, and passes over what is none."""
    place = bundle / "engines" / "odd"
    place.mkdir(parents=True, exist_ok=True)
    (place / "engines.json").write_bytes(INDEXES[name])
    with Bundle(bundle) as opened:
        assert describe_sets(opened) == "engines: none"
