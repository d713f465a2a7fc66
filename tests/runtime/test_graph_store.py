"""Optimised graphs are made once for a bundle and a machine, and made again whenever what is stored is of no use."""

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import file_entry, images, read_manifest, write_manifest

from da3.runtime import Bundle, BundleError, Runtime
from da3.runtime.backends import blocked, graph_making, graph_store
from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.system import scratch_folder
from da3.runtime.trt.store import describe_sets


@pytest.fixture
def bundle(built, tmp_path):
    """A bundle that no start has stored anything in."""
    return Path(shutil.copytree(built[0], tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")))


@pytest.fixture
def made(monkeypatch):
    """A list that grows by one for each graph that ONNX Runtime optimises and saves."""
    calls, original = [], graph_making.open_session

    def counted(*args, save, **kwargs):
        calls.append(save)
        return original(*args, save=save, **kwargs)

    monkeypatch.setattr(graph_making, "open_session", counted)
    return calls


def run(bundle, **kwargs):
    with Runtime(bundle, backend=OrtBackend(**kwargs)) as runtime:
        return runtime.run_batch(images(4), "flowers").logits


def stored(bundle):
    """The folders of stored graphs; nothing else may be left in engines/."""
    folder = bundle / "engines"
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    assert all(path.name.startswith("onnxruntime-") and (path / "index.json").is_file() for path in names)
    return names


def rewrite(folder, change):
    """Change what index.json says, and make its hash fit again."""
    index = json.loads((folder / "index.json").read_text())
    change(index["content"])
    index["sha256"] = hashlib.sha256(json.dumps(index["content"], sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("in_blocks", [True, False])
def test_the_second_start_makes_nothing(bundle, made, monkeypatch, in_blocks):
    if not in_blocks:
        monkeypatch.setattr(blocked, "_DOMAIN", "some.other.domain")
    first = run(bundle)
    assert made and len(stored(bundle)) == 1
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    made.clear()
    np.testing.assert_array_equal(run(bundle), first)
    np.testing.assert_array_equal(run(bundle, threads=1), first)
    assert not made and {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before
    shutil.copytree(bundle / "domains" / "signs", bundle / "domains" / "more")
    with Bundle(bundle) as opened:
        assert describe_sets(opened) == "engines: none"
    run(bundle)
    assert not made


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["index.json", "subgraph_01.onnx"])
@pytest.mark.parametrize("damage", [cut, flip, os.remove, lambda path: path.write_bytes(b"[" * 100000)])
def test_what_is_damaged_is_made_again(bundle, made, name, damage):
    first = run(bundle)
    (folder,) = stored(bundle)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder / name)
    made.clear()
    np.testing.assert_array_equal(run(bundle), first)
    assert made and stored(bundle) == [folder]
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.keys() == before.keys()
    made.clear()
    np.testing.assert_array_equal(run(bundle), first)
    assert not made


def test_a_graph_that_onnxruntime_refuses_is_made_again(bundle, made):
    first = run(bundle)
    (folder,) = stored(bundle)
    (folder / "subgraph_00.onnx").write_bytes(b"no graph")
    entry = {"bytes": 8, "sha256": hashlib.sha256(b"no graph").hexdigest()}
    rewrite(folder, lambda content: content["files"].__setitem__(0, entry))
    made.clear()
    np.testing.assert_array_equal(run(bundle), first)
    assert made


@pytest.mark.parametrize("change", [{"format": 0}, {"made_of": {}}, {"files": None}, {"shapes": []}])
def test_an_index_that_says_something_else_is_not_used(bundle, made, change):
    first = run(bundle)
    rewrite(stored(bundle)[0], lambda content: content.update(change))
    made.clear()
    np.testing.assert_array_equal(run(bundle), first)
    assert made


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("x", shape) for shape in ([1, 100_000, 8, 8], [1, -4, 8, 8], [1, 4, 8], [True, 4, 8, 8], 5, None)),
        *(("logits", shape) for shape in ([1, "others"], [2, "classes"], [1, 3])),
        ("image", [1, 4, 16, 16]),
        ("more", [1]),
    ],
)
def test_shapes_that_no_value_has_are_not_used(bundle, made, name, shape):
    """They would be set aside, or end in an error of numpy's, though their hash fits."""
    first = run(bundle)
    shapes = json.loads((stored(bundle)[0] / "index.json").read_text())["content"]["shapes"]
    if name == "x":  # features that cross subgraphs
        name = next(n for n, known in shapes.items() if len(known) == 4 and n != "image")
    assert name == "more" or name in shapes
    rewrite(stored(bundle)[0], lambda content: content["shapes"].update({name: shape}))
    made.clear()
    np.testing.assert_array_equal(run(bundle), first)
    assert made


def test_a_damaged_file_of_the_bundle_is_refused_all_the_same(bundle, made):
    run(bundle)
    made.clear()
    flip(bundle / "backbone" / "stem.onnx")
    with pytest.raises(BundleError, match=r"backbone/stem\.onnx is not the file the manifest names"):
        run(bundle)
    os.remove(bundle / "backbone" / "stem.onnx")
    with pytest.raises(BundleError, match=r"backbone/stem\.onnx is missing"):
        run(bundle)
    assert not made


def test_other_files_another_cpu_and_another_onnxruntime_use_graphs_of_their_own(bundle, made, monkeypatch):
    monkeypatch.setattr(graph_store, "_MOST", 4)
    run(bundle)
    monkeypatch.setattr(graph_store, "_MAKING", 99)
    run(bundle)
    monkeypatch.setattr(graph_store, "_cpu", lambda: ["armv7l", "neon"])
    run(bundle)
    monkeypatch.setattr("onnxruntime.__version__", "0.1")
    run(bundle)
    assert len(stored(bundle)) == 4 and stored(bundle)[0].name.startswith("onnxruntime-0.1-")
    path = bundle / "backbone" / "stem.onnx"
    path.write_bytes(path.read_bytes() + b"\x72\x00")  # metadata: none
    content = read_manifest(bundle)
    content["files"]["backbone/stem.onnx"] = file_entry(path)
    write_manifest(bundle, content)
    made.clear()
    run(bundle)
    assert made and len(stored(bundle)) == 4, "the folder that was written first makes room for the fifth"


def test_a_cpu_that_cannot_be_told_stores_nothing(bundle, made, monkeypatch):
    monkeypatch.setattr(graph_store, "_cpu", lambda: None)
    np.testing.assert_array_equal(run(bundle), run(bundle))
    assert not stored(bundle)


def test_bundles_that_nothing_is_stored_in(bundle, tmp_path):
    expected = run(Bundle(bundle, may_store=False))
    run(bundle, precision="fp16")
    with Runtime(Bundle(bundle, may_store=False)) as runtime:
        runtime.trace(images(1), ["x0"], "flowers")
    assert not stored(bundle)
    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", bundle))
    before = archive.read_bytes()
    np.testing.assert_array_equal(run(archive), expected)
    assert archive.read_bytes() == before and sorted(tmp_path.iterdir()) == [bundle, archive]
    with Runtime(bundle) as runtime:
        runtime.trace(images(1), ["x0"], "flowers")
    assert len(stored(bundle)) == 1, "the graphs of a trace were stored"


@pytest.mark.parametrize("failing", ["os.makedirs", "os.rename", "builtins.open"])
def test_where_nothing_can_be_written(bundle, monkeypatch, failing, recwarn):
    expected = run(Bundle(bundle, may_store=False))
    owner, name = failing.split(".")
    original = getattr(__import__(owner), name)

    def fail(path, *args, **kwargs):
        if "engines" in str(path) and (name != "open" or "wb" in args):
            raise OSError(28, "No space left on device")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(failing, fail)
    np.testing.assert_array_equal(run(bundle), expected)
    assert not stored(bundle) and not recwarn.list


def test_a_folder_left_behind_by_a_process_that_was_ended(bundle):
    left = bundle / "engines" / ".writing-onnxruntime-a_123456"
    other = bundle / "engines" / "timing-1.cache"
    left.mkdir(parents=True)
    other.write_bytes(b"TensorRT's")
    with scratch_folder(str(bundle / "engines"), ".writing-onnxruntime-") as in_use:
        run(bundle)
        assert not left.exists() and os.path.isdir(in_use) and other.exists()


def test_several_at_once(bundle):
    expected = run(Bundle(bundle, may_store=False))
    found, start = [], threading.Barrier(4)

    def open_and_run():
        start.wait()
        found.append(run(bundle))

    threads = [threading.Thread(target=open_and_run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(stored(bundle)) == 1
    for logits in [*found, run(bundle)]:
        np.testing.assert_array_equal(logits, expected)
