"""Bundles and domains that are damaged, hostile or made for another backbone are refused in words."""

import shutil
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load
from synthetic_bundle import (
    CHANNELS,
    SHIFT,
    Backbone,
    file_entry,
    images,
    read_manifest,
    write_domain,
    write_manifest,
)

from da3.runtime import Bundle, BundleError, DomainError, Runtime
from da3.runtime.bundle.bundle import read_domain
from da3.runtime.bundle.domain import read_pack
from da3.runtime.bundle.packs import write_pack


def zipped(folder, out, prefix=""):
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return out


@pytest.mark.parametrize("prefix", ["", "bundle/"])
def test_a_zip_answers_like_its_directory(built, tmp_path, prefix):
    x = images(8)
    path = zipped(built[0], tmp_path / "b.zip", prefix)
    with Runtime(built[0]) as one, Runtime(path) as two:
        assert one.domains == two.domains == ["flowers", "signs"]
        for name in one.domains:
            a, b = one.run_batch(x, name), two.run_batch(x, name)
            np.testing.assert_array_equal(a.logits, b.logits)
            np.testing.assert_array_equal(a.blocks, b.blocks)


def test_read_verifies(bundle):
    with Bundle(bundle) as opened:
        assert opened.read("backbone/stem.onnx") == (bundle / "backbone" / "stem.onnx").read_bytes()
        opened.verify()
        with pytest.raises(BundleError, match=r"lists no file 'domains/flowers/domain.json'"):
            opened.read("domains/flowers/domain.json")
    stem = bundle / "backbone" / "stem.onnx"
    data = bytearray(stem.read_bytes())
    data[100] ^= 1
    stem.write_bytes(data)
    with pytest.raises(BundleError, match=r"backbone/stem.onnx is not the file the manifest names \(sha256"):
        Runtime(bundle)
    stem.write_bytes(data[:-10])
    with pytest.raises(BundleError, match=r"backbone/stem.onnx has \d+ bytes and should have \d+"):
        Runtime(bundle)
    stem.unlink()
    with pytest.raises(BundleError, match=r"backbone/stem.onnx is missing"):
        Runtime(bundle)


def test_a_truncated_onnx_file_that_the_manifest_vouches_for(bundle):
    block = bundle / "backbone" / "block_1.onnx"
    block.write_bytes(block.read_bytes()[:-40])
    content = read_manifest(bundle)
    content["files"]["backbone/block_1.onnx"] = file_entry(block)
    write_manifest(bundle, content)
    with pytest.raises(BundleError, match=r"backbone/block_1\.onnx: truncated, damaged, or not a plain ONNX file"):
        Runtime(bundle)


def test_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        Bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"it has no manifest.json"):
        Bundle(tmp_path)
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(BundleError, match="neither a folder nor a zip"):
        Bundle(tmp_path / "b.zip")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100000)
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle(tmp_path)


def step(content, segment):
    return next(s for s in content["plan"] if s["segment"] == segment)


def put(content, *path_and_value):
    *path, last, value = path_and_value
    for key in path:
        content = content[key]
    content[last] = value


TRAVERSAL = {"sha256": "0" * 64, "bytes": 1}
WRONG = {
    "newer format": (lambda m: put(m, "format", 3), "format 3, written by a newer da3.*upgrade"),
    "format 0": (lambda m: put(m, "format", 0), "format must be 1 or more"),
    "format true": (lambda m: put(m, "format", True), "format must be an integer, not true"),
    "traversal": (lambda m: put(m, "files", "backbone/../../x", TRAVERSAL), "unsafe file name"),
    "absolute": (lambda m: put(m, "files", "/etc/passwd", TRAVERSAL), "unsafe file name"),
    "backslash": (lambda m: put(m, "files", "backbone\\..\\x", TRAVERSAL), "unsafe file name"),
    "other folder": (lambda m: put(m, "files", "domains/x.onnx", TRAVERSAL), "unsafe file name"),
    "sha": (lambda m: put(m, "files", "backbone/stem.onnx", "sha256", "abc"), "64 lower-case hex digits"),
    "missing": (lambda m: m.pop("plan"), "plan is missing"),
    "unlisted": (lambda m: m["files"].pop("backbone/stem.onnx"), "which `files` does not list"),
    "std": (lambda m: put(m, "preprocessing", "std", [0, 1, 1]), "must be positive"),
    "flops": (lambda m: put(m, "blocks", 1, "skip_flops", 1e9), "flops must be at least skip_flops"),
    "shape": (lambda m: put(m, "segments", "stem", "inputs", 0, "shape", [1.5]), "integers and names"),
    "segment": (lambda m: put(step(m, "tail"), "segment", "nope"), "no segment is called 'nope'"),
    "unwritten": (lambda m: put(step(m, "tail"), "inputs", ["x9"]), "reads x9 before any step writes it"),
    "order": (lambda m: m["plan"].reverse(), "before any step writes it"),
    "twice": (lambda m: put(step(m, "tail"), "outputs", ["x1"]), "writes x1, which is already written"),
    "count": (lambda m: put(step(m, "head"), "inputs", ["features"]), "1 inputs and 1 outputs, but"),
    "logits": (lambda m: put(step(m, "head"), "outputs", ["answer"]), "no plan step writes 'logits'"),
    "shapes": (lambda m: put(step(m, "tail"), "inputs", ["a0"]), r"a0 has shape \(batch, 4, 1, 1\)"),
    "no skip": (lambda m: step(m, "block_1").pop("skip"), "needs all of gate, skip and block"),
    "no gate": (lambda m: step(m, "block_1").pop("gate"), "needs all of gate, skip and block"),
    "gate shape": (lambda m: put(step(m, "block_1"), "gate", "x1"), r"x1 must be an earlier value of shape"),
    "gate late": (lambda m: put(step(m, "block_1"), "gate", "g2x"), "g2x must be an earlier value"),
    "unskippable": (lambda m: put(m, "blocks", 1, "skip_flops", None), "skip_flops of block 1 is null"),
    "skip shape": (lambda m: put(step(m, "block_1"), "skip", "stem"), "segment stem: 2 inputs and 1 outputs, but"),
    "skip output": (lambda m: put(m, "segments", "skip", "outputs", 0, "shape", ["batch", 1]), "has other outputs"),
    "skip reads": (lambda m: put(step(m, "block_2"), "skip_inputs", 0, "x1"), "shifted reads x1, which it does not"),
    "skip tensor": (lambda m: put(step(m, "block_2"), "skip_inputs", ["x2", "a2"]), "2 inputs and 1 outputs, but"),
    "skip nothing": (lambda m: put(step(m, "block_0"), "skip_inputs", ["x0"]), "skip_inputs, but no skip"),
    "block range": (lambda m: put(step(m, "block_1"), "block", 7), "block 7, but `blocks` has 3"),
    "block twice": (lambda m: put(step(m, "block_1"), "block", 0), "block 0 is run by an earlier step"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_contradicts_itself(bundle, name):
    change, message = WRONG[name]
    content = read_manifest(bundle)
    change(content)
    write_manifest(bundle, content)
    with pytest.raises(BundleError, match=message):
        Bundle(bundle)


def test_segments_that_are_not_what_the_manifest_says(bundle):
    content = read_manifest(bundle)
    content["segments"]["tail"]["inputs"][0]["name"] = "z"
    write_manifest(bundle, content)
    with pytest.raises(BundleError, match=r"backbone/tail.onnx: has inputs \['x'\] .* segment tail of the manifest"):
        Runtime(bundle)


def change_tensor(key, value):
    def change(weights):
        weights[key] = value(weights[key]) if callable(value) else value
        return {}

    return change


def drop(key):
    def change(weights):
        del weights[key]
        return {}

    return change


DOMAINS = {
    "backbone": (
        lambda w: {"backbone_sha256": "c" * 64},
        "pack odd was trained on backbone cccccccccccc.*this bundle holds synthetic, backbone bbbbbbbbbbbb",
    ),
    "size": (lambda w: {"size": 32}, "trained at 32 px; this bundle runs at 16 px"),
    "adaptor": (
        lambda w: {"adaptor": {"grid": 2, "mid": 3}},
        "another adaptor than this bundle .grid 2, here 1",
    ),
    "classes": (lambda w: {"classes": ["a", "b"]}, "names 2 classes, its head answers 3"),
    "same classes": (lambda w: {"classes": ["a", "a", "b"]}, "classes must be different names"),
    "newer": (lambda w: {"format": 9}, "format 9, written by a newer da3"),
    "other name": (lambda w: {"name": "even"}, "domain.json calls itself 'even'"),
    "bad name": (lambda w: {"name": "../x"}, "bad domain name"),
    "theta": (lambda w: {"theta": "high"}, "theta must be a number"),
    "huge theta": (lambda w: {"theta": 10**400}, "too large a number"),
    "infinite theta": (lambda w: {"theta": float("inf")}, "Infinity is not a JSON number"),
    "hash": (
        lambda w: {"weights": {"file": "weights.safetensors", "sha256": "0" * 64, "bytes": 0}},
        "bytes and should have 0",
    ),
    "NaN": (change_tensor("head.bias", lambda v: v * np.nan), "head.bias holds NaN or infinite weights"),
    "infinity": (change_tensor("adaptors.1.up", lambda v: v / 0.0), "adaptors.1.up holds NaN"),
    "lacking": (drop("adaptors.2.down"), "lacks the tensor adaptors.2.down"),
    "shape": (
        change_tensor("adaptors.0.up", np.ones((3, 5))),
        r"has shape \[3, 5\], the plan wants \[3, 4\]",
    ),
    "rank": (change_tensor("adaptors.0.up", np.ones(12)), r"has shape \[12\], the plan wants \[3, 4\]"),
    "free dim": (change_tensor("head.weight", np.ones((4, 5))), "head.weight has shape"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_that_does_not_fit(bundle, weights, name):
    change, message = DOMAINS[name]
    tensors = dict(weights["flowers"])
    changes = change(tensors)
    write_domain(bundle / "domains" / "odd", "odd", tensors, **changes)
    with Runtime(bundle) as runtime:
        with pytest.raises((DomainError, BundleError), match=message):
            runtime.load("odd")
        assert runtime.load("flowers").name == "flowers"


def test_wrong_dtype_and_wrong_hash(bundle, weights):
    write_domain(bundle / "domains" / "odd", "odd", weights["flowers"], dtype=np.float64)
    with Bundle(bundle) as opened:
        with pytest.raises(DomainError, match="is float64, not float16 or float32"):
            read_domain(opened, "odd")
        path = bundle / "domains" / "flowers" / "weights.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(BundleError, match="wrong sha256"):
            read_domain(opened, "flowers")
        path.write_bytes(data[:-1])
        with pytest.raises(BundleError, match="bytes and should have"):
            read_domain(opened, "flowers")
        path.unlink()
        with pytest.raises(BundleError, match=r"weights.safetensors is missing"):
            read_domain(opened, "flowers")


def test_domains_read_as_float32(bundle, weights):
    for dtype in (np.float16, np.float32):
        write_domain(bundle / "domains" / "d", "d", weights["flowers"], dtype=dtype, theta=0.5)
        domain = read_pack(bundle / "domains" / "d")
        assert domain.theta == 0.5 and domain.classes == ("d_0", "d_1", "d_2")
        for key, value in domain.weights.items():
            assert value.dtype == np.float32 and value.flags.c_contiguous
            np.testing.assert_array_equal(value, weights["flowers"][key])


def test_a_domain_without_gates_needs_nothing_for_skipped_blocks(bundle, tmp_path, weights):
    """Where a block is skipped nevertheless, because somebody forces it, nothing is added."""
    short = {k: v for k, v in weights["flowers"].items() if k != SHIFT}
    write_domain(bundle / "domains" / "plain", "plain", short, gated=False)
    write_domain(bundle / "domains" / "gated", "gated", short)
    zero = dict(short, **{SHIFT: np.zeros((CHANNELS, 1, 1), np.float32)})
    x = images(5)
    with Runtime(bundle) as runtime:
        with pytest.raises(DomainError, match=f"domain gated lacks the tensor {SHIFT}; export it again"):
            runtime.load("gated")
        for gates in (None, {2: False}):
            logits, ran = Backbone().reference(x, zero, gated=False, gates=gates)
            found = runtime.run_batch(x, "plain", gates=gates)
            np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(found.blocks, ran)
    # It is handed on as it is, without what it does not need.
    with Runtime(bundle) as runtime:
        runtime.load(write_pack(bundle, "plain", tmp_path / "plain.da3"))
    assert SHIFT not in load((bundle / "domains" / "plain" / "weights.safetensors").read_bytes())
    less = {k: v for k, v in short.items() if k != "adaptors.1.up"}
    write_domain(bundle / "domains" / "less", "less", less, gated=False)
    with Bundle(bundle) as opened, pytest.raises(DomainError, match=r"domain less lacks the tensor adaptors\.1\.up"):
        read_domain(opened, "less")


def test_a_pack_beside_the_bundle(bundle, tmp_path, weights):
    def files():
        return sorted(p for p in bundle.rglob("*") if bundle / "engines" not in [p, *p.parents])

    folder = write_domain(tmp_path / "tiny", "tiny", weights["signs"])
    before = files()
    with Runtime(bundle) as runtime:
        for path in (folder, zipped(folder, tmp_path / "tiny.da3")):
            assert runtime.load(path).name == "tiny"
            assert runtime.domains == ["flowers", "signs", "tiny"]
            x = images(4)
            np.testing.assert_array_equal(runtime.run_batch(x, "tiny").logits, runtime.run_batch(x, "signs").logits)
            runtime.unload("tiny")
        with pytest.raises(DomainError, match="no domain pack at"):
            runtime.load(tmp_path / "gone.da3")
    assert files() == before


def test_a_domain_added_while_open_is_seen(bundle):
    with Runtime(bundle) as runtime:
        shutil.copytree(bundle / "domains" / "signs", bundle / "domains" / "more")
        assert "more" in runtime.domains
        shutil.rmtree(bundle / "domains" / "more")
        with pytest.raises(DomainError, match="unknown domain 'more'"):
            runtime.use("more")
