"""Photos and results at URIs: brought and put whole, or said in one line why not."""

import os
import shutil
from pathlib import Path

import pytest
from test_training_config import CONFIG

from da3.runtime.training import LAST, Progress, RunConfig, checkpoint
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet import Job
from da3.toolchain.fleet import mirror as mirrors
from da3.toolchain.fleet.earlier import facts_of, look_back
from da3.toolchain.fleet.mirror import Mirror, put_file, remove_run
from da3.toolchain.fleet.photo_cache import bring_file, bring_photos, photos_there
from da3.toolchain.fleet.places import absolute, below, is_uri, opened, shown

fsspec = pytest.importorskip("fsspec", reason="pip install 'da3[ray]'")


@pytest.fixture
def memory():
    """fsspec's storage in this process's memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture
def photos(memory):
    for name, data in (
        ("train/a/1.jpg", b"one"),
        ("train/b/2.jpg", b"two!"),
        ("val/a/3.jpg", b"3"),
        ("about.txt", b"x"),
    ):
        memory.pipe(f"/photos/flowers/{name}", data)
    return "memory://photos/flowers"


def test_what_is_a_uri():
    assert all(map(is_uri, ("s3://a/b", "file:///a", "zip://x::file:///a.zip", "memory://a")))
    assert not any(map(is_uri, ("/a/b", "a", "~/a", "C:\\a", "a:b")))
    assert below("s3://a/b/", "c", "d") == "s3://a/b/c/d" and below("/a", "c") == "/a/c"
    assert absolute("a", Path("/base")) == "/base/a" and absolute("s3://a", Path("/base")) == "s3://a"
    assert shown("ftp://me:secret@host/a") == "ftp://host/a"


def test_photos_come_once_and_whole(photos, memory, tmp_path, monkeypatch):
    said = []
    folder = bring_photos(photos, tmp_path, lambda done, total: said.append((done, total)))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    assert found == {"train/a/1.jpg": b"one", "train/b/2.jpg": b"two!", "val/a/3.jpg": b"3"}
    assert folder.name == "flowers" and said == [(3, 3)]
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get", lambda *a, **k: pytest.fail("it is here"))
        assert bring_photos(photos, tmp_path) == folder
    (folder / "train/a/1.jpg").write_bytes(b"cut"[:1])
    assert bring_photos(photos, tmp_path) == folder and (folder / "train/a/1.jpg").read_bytes() == b"one"
    memory.pipe("/photos/flowers/train/a/1.jpg", b"other")
    assert bring_photos(photos, tmp_path).parts[-2] != folder.parts[-2], "other photos lie elsewhere"


def test_photos_of_an_archive_come_too(photos, tmp_path):
    source = bring_photos(photos, tmp_path / "cache")
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", source.parent)
    folder = bring_photos(f"zip://flowers::file://{archive}", tmp_path / "cache")
    assert (folder / "train/b/2.jpg").read_bytes() == b"two!"


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"size": None}, "has a size of None"),
        ({"size": 1 << 40}, "has a size of"),
        ({"size": -1}, "has a size of -1"),
        ({"size": 3, "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="}, "came damaged"),
        ({"size": 4}, "came with 3 bytes, not 4"),
    ],
)
def test_what_a_storage_says_is_checked(info, message, photos, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(type(memory), "find", lambda *a, **k: {"/photos/flowers/train/a/1.jpg": info})
    with pytest.raises(FleetError, match=message):
        bring_photos(photos, tmp_path)
    assert not list(tmp_path.rglob("*.jpg")), "nothing half-brought"


@pytest.mark.parametrize("name", ["../../outside/1.jpg", "a//1.jpg", "a/1\n.jpg", "a/./1.jpg"])
def test_a_name_that_leaves_its_folder_is_refused(name, photos, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(type(memory), "find", lambda *a, **k: {f"/photos/flowers/{name}": {"size": 3}})
    with pytest.raises(FleetError, match="odd name"):
        bring_photos(photos, tmp_path)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://nothing", "holds no photos in folders"),
        ("file:///nowhere/at/all", "holds no photos|does not exist"),
        ("nonsense://x", "cannot be reached: ValueError: Protocol not known"),
    ],
)
def test_places_that_are_not_there(uri, message, memory):
    with pytest.raises(FleetError, match=message) as raised:
        photos_there(uri)
    assert "\n" not in str(raised.value)


def test_a_storage_without_its_package(monkeypatch):
    def missing(uri):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(FleetError, match=r"s3://host/a cannot be reached: a package is missing \(Install s3fs"):
        opened("s3://me:secret@host/a")


def test_a_file_comes_once(memory, tmp_path):
    memory.pipe("/weights/mine.safetensors", b"weights")
    path = bring_file("memory://weights/mine.safetensors", tmp_path)
    assert path.name == "mine.safetensors" and path.read_bytes() == b"weights"
    assert bring_file("memory://weights/mine.safetensors", tmp_path) == path
    with pytest.raises(FleetError, match="does not exist"):
        bring_file("memory://weights/other.safetensors", tmp_path)


def write_run(folder, step, text=b"rows"):
    checkpoint.write(folder / LAST, CONFIG, Progress(step=step), {}, {})
    (folder / "metrics.jsonl").write_bytes(text)
    (folder.parent / "backbones").mkdir(exist_ok=True)
    (folder.parent / "backbones" / "net-0.safetensors").write_bytes(b"backbone")


def test_a_run_is_saved_and_restored(memory, tmp_path):
    here = Mirror(tmp_path / "one", "memory://out/runs", "flowers")
    here.folder.mkdir(parents=True)
    assert not here.changed() and not here.restore()
    write_run(here.folder, 1)
    assert here.changed()
    here.save()
    assert not here.changed()
    there = Mirror(tmp_path / "two", "memory://out/runs", "flowers")
    there.runs.mkdir()
    assert there.restore() and checkpoint.read(there.folder / LAST).progress.step == 1
    assert (there.runs / "backbones" / "net-0.safetensors").read_bytes() == b"backbone"
    assert (there.folder / "metrics.jsonl").read_bytes() == b"rows"
    write_run(here.folder, 2)
    assert here.changed()
    remove_run("memory://out/runs", "flowers")
    assert not there.restore()


def test_the_checkpoint_goes_last(memory, tmp_path, monkeypatch):
    """A node that is lost while it saves leaves the checkpoint before, never one that refers to what is not there."""
    put = []
    monkeypatch.setattr(mirrors, "put_file", lambda path, uri: put.append(uri.rpartition("/")[2]))
    here = Mirror(tmp_path, "memory://out/runs", "flowers")
    here.folder.mkdir()
    write_run(here.folder, 1)
    here.save()
    assert put[-1] == LAST and "metrics.jsonl" in put and "net-0.safetensors" in put


def test_a_file_appears_whole(tmp_path):
    """On a storage that has no whole files by itself it is written beside its place first."""
    (tmp_path / "x").write_bytes(b"new")
    target = tmp_path / "out" / "x"
    put_file(tmp_path / "x", f"file://{target}")
    assert target.read_bytes() == b"new" and os.listdir(target.parent) == ["x"]


def test_a_storage_that_fails_for_a_moment_is_asked_again(memory, tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"new")
    fine, failures = type(memory).put_file, iter([True, True, False, *[True] * 9])

    def put(self, *args, **kwargs):
        if next(failures):
            raise ConnectionError("gone for a moment")
        return fine(self, *args, **kwargs)

    monkeypatch.setattr(type(memory), "put_file", put)
    monkeypatch.setattr(mirrors.time, "sleep", lambda seconds: None)
    put_file(tmp_path / "x", "memory://out/x")
    assert memory.cat("/out/x") == b"new"
    with pytest.raises(FleetError, match="memory://out/x cannot be written: ConnectionError: gone for a moment"):
        put_file(tmp_path / "x", "memory://out/x")


def job_of(runs, **options):
    asked = {"domain": "flowers", "data": CONFIG.data, **options}
    return Job(name="flowers", options=asked, runs=runs, cache="/none")


@pytest.mark.parametrize("there", ["path", "uri"])
def test_what_an_earlier_call_left(there, memory, tmp_path):
    runs = str(tmp_path) if there == "path" else "memory://out/runs"
    job = job_of(runs, epochs=CONFIG.epochs)
    assert facts_of(job) is None and look_back([job], False)[0].job == job
    config: RunConfig = CONFIG._replace(domain="flowers", data=os.path.realpath(CONFIG.data))
    best = {"val_accuracy": 0.75}

    def write(progress):
        checkpoint.write(tmp_path / "local", config, progress, {}, {})
        put_file(tmp_path / "local", below(runs if there == "uri" else f"file://{runs}", "flowers", LAST))

    write(Progress(epoch=1))
    assert look_back([job], False)[0].job == job, "to go on with"
    other = job_of(runs, epochs=CONFIG.epochs + 1)
    with pytest.raises(FleetError, match="domain flowers: cannot resume .*--epochs was"):
        look_back([other], False)
    assert look_back([other], True)[0].job.overwrite
    write(Progress(epoch=CONFIG.epochs, best=best))
    (left,) = look_back([job], False)
    assert left.job is None and left.accuracy == 0.75
    packed = Job(**{**job.to_json(), "pack": below(runs, "flowers.da3")})
    assert look_back([packed], False)[0].job == packed, "its pack is missing"
    put_file(tmp_path / "local", below("memory://out/runs" if there == "uri" else f"file://{runs}", "flowers.da3"))
    assert look_back([packed], False)[0].job is None
    place = below("memory://out/runs" if there == "uri" else f"file://{runs}", "flowers", LAST)
    (tmp_path / "local").write_bytes(b"damaged!")
    put_file(tmp_path / "local", place)
    with pytest.raises(FleetError, match="domain flowers: .*is damaged or no da3 checkpoint") as raised:
        look_back([job], False)
    assert "\n" not in str(raised.value) and look_back([job], True)[0].job.overwrite
