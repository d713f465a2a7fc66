"""One process at a time, files replaced in one step, folders to work in: what killed processes leave is taken over."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from da3.runtime.errors import InUseError
from da3.runtime.system import atomic, exchange, exchanging, exclusive, locking, replace_file, scratch_folder

HOLD = """
import sys, time
from da3.runtime.system import exclusive, scratch_folder
from da3.runtime.system.atomic import replace_file
def write(file):
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
with exclusive(sys.argv[1]), scratch_folder(sys.argv[1], ".work-"):
    replace_file(sys.argv[1] + "/file", write)
"""


@pytest.fixture
def holder(tmp_path, package_root):
    """A process that holds the lock of tmp_path, has a folder to work in there, and is half through a file."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), "\x1b[2J"]
    environment = dict(os.environ, PYTHONPATH=str(package_root))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_holder_is_named_and_a_dead_ones_lock_taken_over(tmp_path, holder):
    began = time.monotonic()
    with pytest.raises(InUseError) as error, exclusive(tmp_path, patience=0.1):
        pass
    assert time.monotonic() - began < 5
    text = str(error.value)
    assert re.search(rf"in use by `-c .*` \(process {holder.pid} on \S+, since 20\d\d-\d\d-\d\d .* UTC\): try", text)
    assert "\x1b" not in text and "\n" not in text
    (tmp_path / "file").write_bytes(b"old")
    replace_file(str(tmp_path / "file"), lambda file: file.write(b"new"))  # beside one that is half written
    with scratch_folder(str(tmp_path), ".work-"):
        assert len([name for name in os.listdir(tmp_path) if name.startswith(".work-")]) == 2
    assert (tmp_path / "file").read_bytes() == b"new"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    left = sorted(os.listdir(tmp_path))
    assert left[0] == ".lock" and left[1].startswith(".work-") and left[2:] == [".writing-file", "file"]
    with exclusive(tmp_path, patience=0.0) as alone, scratch_folder(str(tmp_path), ".work-"):
        assert alone and json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        replace_file(str(tmp_path / "file"), lambda file: file.write(b"newer"))
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"newer"


def test_one_waits_for_the_other(tmp_path):
    with exclusive(tmp_path), pytest.raises(InUseError), exclusive(tmp_path, patience=0.0):
        pass  # within a process, too
    with exclusive(tmp_path):
        pass
    assert not os.listdir(tmp_path)


def _count(folder, times):
    for _ in range(times):
        with exclusive(folder):
            number = int((folder / "number").read_text())
            (folder / "number").write_text(str(number + 1))


def test_many_processes_count_without_losing_one(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "100" and os.listdir(tmp_path) == ["number"]


def test_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", refuse)
    with exclusive(tmp_path) as alone:
        assert not alone
    (tmp_path / ".work-x").mkdir()
    (tmp_path / ".writing-file").write_bytes(b"another's, as far as anybody knows")
    replace_file(str(tmp_path / "file"), lambda file: file.write(b"data"))
    with scratch_folder(str(tmp_path), ".work-"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".work-x", ".writing-file", "file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"old")
    path.chmod(mode)

    def write(file):
        seen.append(os.fstat(file.fileno()).st_mode & 0o777)  # others must not read it while it is written either
        file.write(b"new")

    replace_file(str(path), write)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == mode == seen[0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    replace_file(str(path), lambda file: file.write(b"new"))
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_the_umask_holds(tmp_path):
    before = os.umask(0o077)
    try:
        atomic.write_atomically(tmp_path / "folder" / "file", b"x")
        with scratch_folder(str(tmp_path), ".work-") as work:
            assert os.stat(work).st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


def test_the_folder_is_synced_behind_the_file(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((os.path.basename(name), sorted(os.listdir(tmp_path))))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(str(tmp_path / "file"), lambda file: file.write(b"data"))
    assert synced == [(".writing-file", [".writing-file"]), (tmp_path.name, ["file"])]


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_failure_leaves_the_old_file_alone(tmp_path, fails, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*paths):
        raise OSError(28, "No space left on device")

    if fails == "replace":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(str(path), fail if fails == "write" else lambda file: file.write(b"new"))
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"old"


def test_two_folders_change_places(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(b"")
    if not exchange(str(tmp_path / "a"), str(tmp_path / "b")):
        pytest.skip("not on this file system")
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "b") == ["a"]
    with pytest.raises(FileNotFoundError):
        exchange(str(tmp_path / "a"), str(tmp_path / "none"))


def test_by_number_where_the_c_library_has_no_name_for_it(tmp_path, monkeypatch):
    """As on JetPack 4.6, whose glibc is 2.27."""
    real = exchanging.ctypes.CDLL

    class Old:
        def __init__(self, name, use_errno):
            self.syscall = real(name, use_errno=use_errno).syscall

    monkeypatch.setattr(exchanging.ctypes, "CDLL", Old)
    test_two_folders_change_places(tmp_path)
    monkeypatch.setattr(exchanging, "_NUMBERS", {})
    assert not exchange(str(tmp_path / "a"), str(tmp_path / "b")) and os.listdir(tmp_path / "a") == ["b"]


def test_what_cannot_change_places_says_so(monkeypatch):
    for number in exchanging._CANNOT:
        monkeypatch.setattr(exchanging, "_exchanged", lambda one, other, number=number: number)
        assert not exchange("a", "b")
