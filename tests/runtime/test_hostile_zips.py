"""Zips that lie about what they hold, links that lead out of a bundle, names that other file systems do not have."""

import os
import shutil
import struct
import zipfile

import pytest
from hostile import patched, within, zip_of
from synthetic_bundle import write_domain

from da3.runtime import Bundle, BundleError, DomainError, Runtime
from da3.runtime.bundle import add_pack, read_pack, remove_domain, update_domain, write_pack
from da3.runtime.bundle.changing import put_file
from da3.runtime.bundle.domain import read_domain_content
from da3.runtime.bundle.files import Files


def test_a_bomb_is_not_inflated(tmp_path):
    """8 MiB of zeros that say they are 1,000 bytes, and the same that say what they are."""
    path = zip_of(tmp_path / "bomb.da3", {"domain.json": b" " * (8 << 20)})
    with within(3), pytest.raises(BundleError, match=r"domain.json has 8388608 bytes, more than"):
        read_pack(path)
    patched(path, (struct.pack("<I", 8 << 20), struct.pack("<I", 1000)))
    with within(3), pytest.raises(BundleError, match=r"cannot read domain.json: Bad CRC-32"):
        read_pack(path)


def test_what_no_weights_shrink_to_is_not_inflated(tmp_path):
    path = zip_of(tmp_path / "b.da3", {"domain.json": b"{}", "weights.safetensors": b"\0" * (9 << 20)})
    files = Files(path, "domain.json", "domain pack")
    with within(3), pytest.raises(BundleError, match=r"says it has 9.0 MiB of which the zip holds 9 KiB"):
        files.read("weights.safetensors")
    files.close()


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)])
def test_other_compressions_are_refused(tmp_path, method, number):
    path = zip_of(tmp_path / "b.da3", {"domain.json": b"{}"}, method)
    with pytest.raises(BundleError, match=f"compressed by method {number}: zip it with deflate"):
        read_pack(path)


DIRECTORY, LOCAL = b"PK\1\2", b"PK\3\4"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (DIRECTORY + b"\x14\x03\x14\0", DIRECTORY + b"\x14\x03\x63\0", "zip file version 9.9"),
        (DIRECTORY + b"\x14\x03\x14\0\0\0", DIRECTORY + b"\x14\x03\x14\0\1\0", "encrypted"),
        (b"domain.json", b"domain\0json", "has no domain.json|neither a folder nor a zip"),
        (b"other.json1", b"domain.json", "holds domain.json twice"),
        (DIRECTORY + b"\x14\x03\x14\0\0\0\0\0", DIRECTORY + b"\x14\x03\x14\0\0\0\x63\0", "compressed by method 99"),
    ],
)
def test_damaged_directories(tmp_path, old, new, what):
    path = zip_of(tmp_path / "b.da3", {"domain.json": b"{}", "other.json1": b"{}"}, zipfile.ZIP_STORED)
    with pytest.raises(BundleError, match=what):
        read_pack(patched(path, (old, new)))


def test_a_name_that_is_not_utf8(tmp_path):
    path = zip_of(tmp_path / "b.da3", {"domain.json": b"{}", "é": b""})
    with pytest.raises(BundleError, match="neither a folder nor a zip"):
        read_pack(patched(path, ("é".encode(), b"\xff\xff")))


def test_a_directory_that_says_it_is_huge_is_not_read(tmp_path):
    """A sparse file of 1 GiB that calls all of itself the list of its members."""
    path = tmp_path / "b.da3"
    size = 1 << 30
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    with within(5), pytest.raises(BundleError, match="its directory has more than 2.0 MiB"):
        read_pack(path)


def test_a_pipe_is_not_waited_for(tmp_path, bundle):
    os.mkfifo(tmp_path / "pipe.da3")
    with pytest.raises(BundleError, match="not a regular file"):
        read_pack(tmp_path / "pipe.da3")
    stem = bundle / "backbone" / "stem.onnx"
    stem.unlink()
    os.mkfifo(stem)
    with pytest.raises(BundleError, match="stem.onnx is missing"):
        Runtime(bundle)


def test_links_out_of_a_bundle_are_neither_read_nor_written(bundle, tmp_path):
    secret = tmp_path / "elsewhere"
    (bundle / "domains" / "flowers").rename(secret)
    (bundle / "domains" / "flowers").symlink_to(secret)
    before = {p.name: p.read_bytes() for p in secret.iterdir()}
    for call in (
        lambda: Runtime(bundle).load("flowers"),
        lambda: update_domain(bundle, "flowers", theta=1.0),
        lambda: write_pack(bundle, "flowers", tmp_path),
    ):
        with pytest.raises(BundleError, match=r"domains/flowers is a link, and a bundle holds none"):
            call()
    remove_domain(bundle, "flowers")  # the way out
    assert {p.name: p.read_bytes() for p in secret.iterdir()} == before


def test_what_a_linked_file_holds_is_not_quoted(bundle, tmp_path):
    (tmp_path / "secret.json").write_text('{"format": 1, "name": "the secret"}')
    described = bundle / "domains" / "flowers" / "domain.json"
    described.unlink()
    described.symlink_to(tmp_path / "secret.json")
    with pytest.raises(BundleError, match="is a link") as caught:
        Runtime(bundle).load("flowers")
    assert "the secret" not in str(caught.value)


def test_folders_that_are_links_are_not_written_into(bundle, tmp_path, weights):
    outside = tmp_path / "outside"
    for name in ("domains", "backbone", "engines"):
        if not (bundle / name).exists():
            (bundle / name).mkdir()
        (bundle / name).rename(outside)
        (bundle / name).symlink_to(outside)
        with Bundle(bundle) as opened:
            if name == "backbone":
                with pytest.raises(BundleError, match="backbone is a link"):
                    put_file(opened, "backbone/int8.json", b"{}")
            if name == "domains":
                with pytest.raises(BundleError, match="domains is a link"):
                    add_pack(bundle, write_domain(tmp_path / "new", "new", weights["flowers"]))
            if name == "engines":
                from da3.runtime.trt.store import engines_folder

                with pytest.raises(BundleError, match="engines is a link"):
                    engines_folder(opened)
        (bundle / name).unlink()
        outside.rename(bundle / name)
    assert "int8.json" not in os.listdir(bundle / "backbone")


def test_graphs_are_not_stored_behind_a_link(bundle, tmp_path):
    (tmp_path / "outside").mkdir()
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    (bundle / "engines").symlink_to(tmp_path / "outside")
    with Runtime(bundle, backend="onnxruntime") as runtime:
        runtime.load("flowers")
    assert not os.listdir(tmp_path / "outside")


def test_a_pack_is_read_once(bundle, tmp_path, weights, monkeypatch):
    """What is stored are the bytes that were verified, were the pack exchanged meanwhile."""
    pack = write_domain(tmp_path / "new", "new", weights["flowers"])
    read = []
    real = Files.read

    def reading(files, name, **more):
        read.append((files.path, name))
        return real(files, name, **more)

    monkeypatch.setattr(Files, "read", reading)
    add_pack(bundle, pack)
    names = [name for path, name in read if path == str(pack)]
    assert sorted(names) == ["domain.json", "weights.safetensors"]
    files = Files(pack, "domain.json", "pack")
    assert read_domain_content(files, "")[1] == {
        p.name: p.read_bytes() for p in sorted((bundle / "domains" / "new").iterdir())
    }


@pytest.mark.parametrize("name", ["CON", "nul", "Com1", "LPT9"])
def test_names_that_windows_gives_to_devices(tmp_path, bundle, weights, name):
    pack = write_domain(tmp_path / "pack", name, weights["flowers"])
    with pytest.raises(DomainError, match="no device of Windows"):
        add_pack(bundle, pack)


def test_names_that_differ_in_capitals_alone(tmp_path, bundle, weights):
    with pytest.raises(DomainError, match="already has a domain flowers, and a folder for FLOWERS too"):
        add_pack(bundle, write_domain(tmp_path / "pack", "FLOWERS", weights["flowers"]), replace=True)
    assert sorted(os.listdir(bundle / "domains")) == ["flowers", "signs"]
