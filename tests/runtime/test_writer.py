"""What is written into a bundle is what is read from it, and a bundle that is written into stays sound."""

import json
import shutil

import numpy as np
import pytest
import synthetic_bundle

from da3.runtime.bundle import changing
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.bundle.changing import put_file
from da3.runtime.bundle.domain import read_pack
from da3.runtime.bundle.manifest import parse_manifest
from da3.runtime.bundle.writer import as_stored, domain_files, manifest_file, write_files
from da3.runtime.errors import BundleError, DomainError
from da3.runtime.records import ExitRule


@pytest.mark.parametrize("fixture", ["built", "built_with_exits"])
def test_a_manifest_comes_back(fixture, request):
    folder = request.getfixturevalue(fixture)[0]
    with Bundle(folder) as bundle:
        manifest = bundle.manifest
    data = manifest_file(manifest)
    assert parse_manifest(data, "m") == manifest and manifest_file(parse_manifest(data, "m")) == data
    assert json.loads(data) == synthetic_bundle.read_manifest(folder)


RULES = (ExitRule(0.75, 1.5), ExitRule(None, 1.0))
FORMAT_2 = {"gated": False, "closed": (1, 2), "exits": RULES, "temperature": 0.5, "calibration": {"photos": 300}}


@pytest.mark.parametrize("change", [{"theta": 0.25}, {"gated": False}, FORMAT_2])
def test_a_domain_comes_back(built, tmp_path, change):
    with Bundle(built[0]) as bundle:
        domain = read_domain(bundle, "flowers")._replace(**change)
    files = domain_files(domain)
    assert json.loads(files["domain.json"])["format"] == (1 if domain.gated else 2)
    write_files(tmp_path / "flowers", files)
    assert files == domain_files(read_pack(tmp_path / "flowers"))
    found = read_pack(tmp_path / "flowers")
    assert found._replace(weights={}) == domain._replace(weights={})
    assert list(found.weights) == sorted(domain.weights)
    for name, array in domain.weights.items():
        np.testing.assert_array_equal(found.weights[name], array)


def test_what_float16_cannot_hold_is_stored_as_float32():
    for largest, dtype in ((59999.0, np.float16), (60000.0, np.float32), (1e30, np.float32)):
        stored = as_stored(np.array([[1.0, -largest]], np.float32).T)
        assert stored.dtype == dtype and stored.shape == (2, 1) and np.isfinite(stored).all()
    assert as_stored(np.zeros((0, 3), np.float32)).dtype == np.float16


@pytest.mark.parametrize("change", [{"theta": float("nan")}, {"metrics": {"val_accuracy": float("inf")}}])
def test_numbers_that_json_has_not(built, change):
    with Bundle(built[0]) as bundle:
        domain = read_domain(bundle, "flowers")._replace(**change)
    with pytest.raises(DomainError, match="metrics and thresholds of domain flowers must be finite numbers"):
        domain_files(domain)


def test_put_file(bundle):
    before = synthetic_bundle.read_manifest(bundle)
    for data in (b"{}", b"{ }"):
        with Bundle(bundle) as opened:
            put_file(opened, "backbone/int8.json", data)
        with Bundle(bundle) as opened:
            opened.verify()
            assert opened.read("backbone/int8.json") == data
    after = synthetic_bundle.read_manifest(bundle)
    assert after["files"].pop("backbone/int8.json") and after == before


@pytest.mark.parametrize("writes", [0, 1])
def test_put_file_that_fails_half_way(bundle, writes, monkeypatch):
    """Killed there: see test_placing.py."""
    with Bundle(bundle) as opened:
        put_file(opened, "backbone/int8.json", b"{}")
    real, done = changing.replace_file, []

    def failing(path, write):
        if len(done) == writes:
            raise OSError(28, "No space left on device")
        done.append(path)
        real(path, write)

    monkeypatch.setattr(changing, "replace_file", failing)
    with Bundle(bundle) as opened, pytest.raises(BundleError, match=r"cannot write .*: No space left on device"):
        put_file(opened, "backbone/int8.json", b"[]")
    with Bundle(bundle) as opened:
        opened.verify()
        assert opened.read("backbone/int8.json") == b"{}"


def test_a_zip_is_read_only(bundle, tmp_path):
    zipped = shutil.make_archive(str(tmp_path / "z"), "zip", bundle)
    with Bundle(zipped) as opened, pytest.raises(BundleError, match="zipped bundle, which is read-only: unzip it"):
        put_file(opened, "backbone/int8.json", b"{}")
