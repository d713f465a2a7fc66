"""Domains and files of a bundle replaced by processes that are killed before any one of their steps: old or new, never
none, never half, and nothing left for ever."""

import contextlib
import os
import shutil
import subprocess
import threading

import pytest
from kills.killing import run_killed
from kills.trees import tree
from synthetic_bundle import write_domain

from da3.runtime import Bundle, BundleError, DomainError, Runtime
from da3.runtime.bundle import packs, placing, read_domain
from da3.runtime.bundle.changing import put_file
from da3.runtime.bundle.packs import add_pack, list_domains, remove_domain, update_domain, write_pack
from da3.runtime.system import scratch_folder

INT8 = "backbone/int8.json"


def theta_of(bundle):
    with Bundle(bundle) as opened:
        opened.verify()
        return read_domain(opened, "flowers").theta


@pytest.fixture
def new(tmp_path, weights):
    """A folder of the domain flowers with another theta than the bundle's."""
    return write_domain(tmp_path / "new", "flowers", weights["flowers"], theta=0.75)


def every_operation(change, bundle, tmp_path, **how):
    """A copy of the bundle for each operation of `change(copy)`, which was killed before it."""
    shutil.copytree(bundle, tmp_path / "whole")
    ended = run_killed(lambda: change(tmp_path / "whole"), tmp_path, **how)
    assert not ended.killed and ended.operations > 5
    for number in range(1, ended.operations + 1):
        copy = shutil.copytree(bundle, tmp_path / f"killed{number}")
        assert run_killed(lambda copy=copy: change(copy), tmp_path, before=number, **how).killed
        yield copy


@pytest.mark.parametrize("can_exchange", [True, False])
def test_killed_while_a_domain_is_replaced(bundle, new, tmp_path, can_exchange):
    before, seen = theta_of(bundle), set()

    def change(copy):
        add_pack(copy, new, replace=True)

    for copy in every_operation(change, bundle, tmp_path, torn=True, can_exchange=can_exchange):
        assert list_domains(copy) == ["flowers", "signs"]
        seen.add(theta_of(copy))
        change(copy)
        assert tree(copy) == tree(tmp_path / "whole")
    assert seen == {before, 0.75}


def test_killed_while_a_domain_is_added_or_removed(bundle, new, tmp_path):
    remove_domain(bundle, "flowers")
    for copy in every_operation(lambda copy: add_pack(copy, new), bundle, tmp_path, torn=True):
        if list_domains(copy) == ["signs"]:
            add_pack(copy, new)
        assert theta_of(copy) == 0.75
        remove_domain(copy, "flowers")
        assert tree(copy) == tree(bundle)


def test_what_was_set_aside_is_read_and_put_back(bundle):
    """As a process leaves it that was killed between the two renames of a system that cannot exchange."""
    before = tree(bundle)
    os.rename(bundle / "domains" / "flowers", bundle / "domains" / "_replaced-flowers")
    with Bundle(bundle) as opened:
        assert opened.domains == ["flowers", "signs"] and read_domain(opened, "flowers").name == "flowers"
    remove_domain(bundle, "signs")
    assert tree(bundle / "domains" / "flowers") == {
        key.split("/")[-1]: value for key, value in before.items() if key.startswith("domains/flowers/")
    }


def test_what_an_older_da3_left_between_its_renames_is_put_back(bundle):
    before = tree(bundle)
    left = bundle / "domains" / ".replaced-x1234_67"
    left.mkdir()
    os.rename(bundle / "domains" / "flowers", left / "old")
    (bundle / "domains" / ".adding-x2345_78").mkdir()
    update_domain(bundle, "flowers")
    assert {key for key, value in tree(bundle).items() if value == "folder"} == {
        key for key, value in before.items() if value == "folder"
    }


@pytest.mark.parametrize("earlier", [b'{"old": 1}\n', pytest.param(None, marks=pytest.mark.slow)])
def test_killed_while_a_listed_file_is_replaced(bundle, tmp_path, earlier):
    new, seen = b'{"new": 12345}\n', set()
    if earlier is not None:
        with Bundle(bundle) as opened:
            put_file(opened, INT8, earlier)

    def change(copy):
        with Bundle(copy) as opened:
            put_file(opened, INT8, new)

    for copy in every_operation(change, bundle, tmp_path, torn=True):
        with Bundle(copy) as opened:
            opened.verify()
            seen.add(opened.read(INT8) if INT8 in opened.manifest.files else None)
        change(copy)
        assert tree(copy) == tree(tmp_path / "whole")
    assert seen == {earlier, new}


def test_a_bundle_that_is_open_says_that_its_file_was_replaced(bundle):
    with Bundle(bundle) as opened:
        put_file(opened, INT8, b"{}")
    with Bundle(bundle) as old:
        put_file(old, INT8, b"{ }")
        with pytest.raises(Exception, match=r"int8.json was replaced since the bundle was opened: open it again"):
            old.read(INT8)


def polled(bundle, change, times):
    """Domains as they are read while `change(i)` is called so many times in another thread."""
    seen, problems, done = set(), [], threading.Event()

    def poll():
        with Bundle(bundle) as opened:
            while not done.is_set():
                try:
                    assert opened.domains == ["flowers", "signs"]
                    seen.add(read_domain(opened, "flowers").theta)
                except BaseException as problem:  # said by the test
                    problems.append(repr(problem))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for i in range(times):
            change(i)
    finally:
        done.set()
        thread.join()
    return seen, problems


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_reader_never_sees_none_or_a_mixture(bundle, tmp_path, weights, can_exchange, monkeypatch):
    if not can_exchange:
        monkeypatch.setattr(placing, "exchange", lambda one, other: False)
    both = [
        write_domain(tmp_path / f"new{i}", "flowers", {k: v * (1 + i) for k, v in weights["flowers"].items()}, theta=i)
        for i in (0.25, 0.75)
    ]
    add_pack(bundle, both[0], replace=True)
    seen, problems = polled(bundle, lambda i: add_pack(bundle, both[i % 2], replace=True), 16)
    assert not problems and seen == {0.25, 0.75}


def test_many_add_and_remove_at_once(bundle, tmp_path, weights):
    given = [write_domain(tmp_path / f"p{i}", f"d{i}", weights["flowers"]) for i in range(4)]
    last = write_domain(tmp_path / "last", "last", weights["flowers"])
    problems = []

    def work(i):
        try:
            for _ in range(3):
                add_pack(bundle, given[i])
                update_domain(bundle, f"d{i}", theta=0.5)
                remove_domain(bundle, f"d{i}")
            add_pack(bundle, last, replace=True)
        except BaseException as problem:
            problems.append(repr(problem))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sorted(os.listdir(bundle / "domains")) == ["flowers", "last", "signs"] and not (bundle / ".lock").exists()


def test_what_is_hashed_is_what_is_stored(bundle, new, monkeypatch):
    """A pack that changes after it was verified, and before its files would be read for storing."""
    real = packs.fitted

    def change_then(domain, manifest):
        (new / "domain.json").write_bytes(b"{}")
        (new / "weights.safetensors").write_bytes(b"")
        return real(domain, manifest)

    monkeypatch.setattr(packs, "fitted", change_then)
    add_pack(bundle, new, replace=True)
    assert theta_of(bundle) == 0.75


def test_modes_are_kept_and_the_umask_holds(bundle, new, tmp_path):
    place = bundle / "domains" / "flowers"
    (place / "weights.safetensors").chmod(0o600)
    (place / "domain.json").chmod(0o640)
    place.chmod(0o700)
    add_pack(bundle, new, replace=True)
    update_domain(bundle, "flowers", theta=0.5)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (place, *place.iterdir())}
    assert modes == {"flowers": 0o700, "domain.json": 0o640, "weights.safetensors": 0o600}
    before = os.umask(0o027)
    try:
        remove_domain(bundle, "flowers")
        add_pack(bundle, new)
        pack = write_pack(bundle, "flowers", tmp_path)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o640} == {os.stat(pack).st_mode & 0o777}


def test_a_domain_that_is_a_link_is_not_written_through(bundle, new, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(bundle / "domains" / "flowers", elsewhere)
    os.symlink(elsewhere, bundle / "domains" / "flowers")
    before = tree(elsewhere)
    with pytest.raises(Exception, match="flowers is a link, and a bundle holds none"):
        update_domain(bundle, "flowers", theta=0.5)
    add_pack(bundle, new, replace=True)
    assert tree(elsewhere) == before and not os.path.islink(bundle / "domains" / "flowers")
    assert theta_of(bundle) == 0.75


def test_names_that_differ_in_case_alone(bundle, tmp_path, weights):
    folder = write_domain(tmp_path / "x", "FLOWERS", weights["flowers"])
    with pytest.raises(DomainError, match="already has a domain flowers, and a folder for FLOWERS too is impossible"):
        add_pack(bundle, folder)
    assert list_domains(bundle) == ["flowers", "signs"]


def test_what_was_measured_on_another_domain_is_not_written(bundle, tmp_path, weights):
    with Bundle(bundle) as opened:
        measured = read_domain(opened, "flowers")
    other = {name: tensor + 1 for name, tensor in weights["flowers"].items()}
    add_pack(bundle, write_domain(tmp_path / "other", "flowers", other), replace=True)
    with pytest.raises(DomainError, match="flowers was replaced while it was measured: do it again"):
        update_domain(bundle, "flowers", theta=0.5, measured=measured)
    with Bundle(bundle) as opened:
        assert update_domain(bundle, "flowers", theta=0.5, measured=read_domain(opened, "flowers")).theta == 0.5


def test_what_others_are_writing_is_left_alone(bundle, new):
    with scratch_folder(str(bundle / "domains"), ".adding-") as in_use:
        add_pack(bundle, new, replace=True)
        assert os.path.isdir(in_use)


@pytest.fixture
def disk(tmp_path):
    """A folder of 2 MB, as root alone can make one; what is given to `mount` changes it."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk to fill")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_no_room(bundle, new, disk, state):
    copy = shutil.copytree(bundle, disk / "bundle")
    before = tree(copy)
    if state == "full":
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while True:
                assert file.write(b"x" * 4096) == 4096
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    words = "No space left on device" if state == "full" else "Read-only file system"

    def put():
        with Bundle(copy) as opened:
            put_file(opened, INT8, b"{}" * 5000)

    changes = [lambda: add_pack(copy, new, replace=True), lambda: update_domain(copy, "flowers", theta=0.5), put]
    if state == "read-only":
        changes.append(lambda: remove_domain(copy, "flowers"))
    for change in changes:
        with pytest.raises(BundleError, match=f"cannot write .*: {words}"):
            change()
        assert tree(copy) == before and theta_of(copy) != 0.75
    if state == "full":
        remove_domain(copy, "flowers")  # that is how room is made
        assert list_domains(copy) == ["signs"]


def test_other_domains_are_left_alone(bundle, new, monkeypatch):
    """A bundle may have ten thousand: loading one, and changing one, looks into no other's folder."""
    flowers, signs = (bundle / "domains" / name for name in ("flowers", "signs"))
    for folder in (flowers, signs):
        (folder / ".writing-domain.json").write_bytes(b"left by a process that was killed")
    looked_into = []
    listdir, isfile = os.listdir, os.path.isfile
    monkeypatch.setattr(os, "listdir", lambda path: looked_into.append(str(path)) or listdir(path))
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_into.append(str(path)) or isfile(path))
    update_domain(bundle, "flowers", theta=0.25)
    with Runtime(bundle, backend="reference") as runtime:
        assert runtime.load("flowers").theta == 0.25
    assert [path for path in looked_into if str(signs) in path] == []
    assert not (flowers / ".writing-domain.json").exists() and (signs / ".writing-domain.json").exists()
