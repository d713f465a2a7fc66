"""Adding and removing domains: all or nothing, and the rest of the bundle byte for byte as it was."""

import os
import shutil

import pytest
from synthetic_bundle import write_domain

from da3.runtime import BundleError, DomainError, Runtime
from da3.runtime.bundle import placing
from da3.runtime.bundle.packs import add_pack, list_domains, remove_domain, update_domain, write_pack


def snapshot(folder):
    """The bundle's own files; what a backend stores for its next start is not among them."""
    files = {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {path: data for path, data in files.items() if path.parts[0] != "engines"}


def leftovers(folder):
    return [p for p in (folder / "domains").iterdir() if p.name.startswith(".")]


def test_there_and_back(bundle, tmp_path):
    before = snapshot(bundle)
    pack = write_pack(bundle, "flowers", tmp_path)
    assert pack == str(tmp_path / "flowers.da3")
    remove_domain(bundle, "flowers")
    assert list_domains(bundle) == ["signs"]
    left = {k: v for k, v in before.items() if "flowers" not in k.parts}
    assert snapshot(bundle) == left
    assert add_pack(bundle, pack).name == "flowers"
    assert snapshot(bundle) == before and not leftovers(bundle)


def test_packs_are_deterministic(bundle, tmp_path):
    first = write_pack(bundle, "signs", tmp_path / "1.da3")
    os.utime(bundle / "domains" / "signs" / "domain.json", (0, 0))
    second = write_pack(bundle, "signs", tmp_path / "2.da3")
    with open(first, "rb") as a, open(second, "rb") as b:
        assert a.read() == b.read()


def test_a_bundle_without_domains_takes_its_first(bundle, tmp_path):
    pack = write_pack(bundle, "flowers", tmp_path)
    shutil.rmtree(bundle / "domains")
    assert list_domains(bundle) == []
    add_pack(bundle, pack)
    assert list_domains(bundle) == ["flowers"]


def test_replace(bundle, tmp_path, weights):
    folder = write_domain(tmp_path / "new", "flowers", weights["flowers"], theta=0.75)
    before = snapshot(bundle)
    with pytest.raises(DomainError, match="already has a domain flowers; replace it"):
        add_pack(bundle, folder)
    assert snapshot(bundle) == before
    add_pack(bundle, folder, replace=True)
    with Runtime(bundle) as runtime:
        assert runtime.load("flowers").theta == 0.75
    assert not leftovers(bundle)


def test_refused_for_another_backbone(bundle, tmp_path, weights):
    folder = write_domain(tmp_path / "x", "x", weights["flowers"], backbone_sha256="c" * 64)
    before = snapshot(bundle)
    with pytest.raises(DomainError, match="pack x was trained on backbone cccccccccccc"):
        add_pack(bundle, folder)
    assert snapshot(bundle) == before


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("broken", ["rename", "exchange", "fsync"])
def test_a_failure_leaves_everything_as_it_was(bundle, tmp_path, weights, monkeypatch, broken, replace):
    if broken == "exchange" and not replace:
        pytest.skip("nothing changes places with what is not there")
    name = "flowers" if replace else "fresh"
    folder = write_domain(tmp_path / "new", name, weights["flowers"], theta=0.75)
    before = snapshot(bundle)
    room, name = (placing, "exchange") if broken == "exchange" else (os, broken)
    real = getattr(room, name)

    def fail(source, *more):
        # Only what brings the new domain in fails: the way back must work.
        if broken == "fsync" or ".adding-" in str(source):
            raise OSError(28, "No space left on device")
        return real(source, *more)

    if broken == "rename":
        monkeypatch.setattr(placing, "exchange", lambda one, other: False)
    monkeypatch.setattr(room, name, fail)
    with pytest.raises(BundleError, match="No space left on device"):
        add_pack(bundle, folder, replace=replace)
    monkeypatch.undo()
    assert snapshot(bundle) == before and not leftovers(bundle)


def test_write_pack_leaves_nothing_when_it_fails(bundle, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "flowers.da3").write_bytes(b"old")

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BundleError, match="No space left"):
        write_pack(bundle, "flowers", out)
    assert [p.name for p in out.iterdir()] == ["flowers.da3"]
    assert (out / "flowers.da3").read_bytes() == b"old"


def test_unknown_and_zipped(bundle, tmp_path):
    with pytest.raises(DomainError, match="unknown domain 'flwers'; this bundle has: flowers, signs"):
        remove_domain(bundle, "flwers")
    with pytest.raises(DomainError, match="unknown domain 'flwers'"):
        write_pack(bundle, "flwers", tmp_path)
    with pytest.raises(BundleError, match="does not exist"):
        add_pack(bundle, tmp_path / "gone.da3")
    zipped = shutil.make_archive(str(tmp_path / "z"), "zip", bundle)
    pack = write_pack(zipped, "flowers", tmp_path)
    assert list_domains(zipped) == ["flowers", "signs"]
    for call in (lambda: add_pack(zipped, pack, replace=True), lambda: remove_domain(zipped, "flowers")):
        with pytest.raises(BundleError, match="is a zipped bundle, which is read-only: unzip it first"):
            call()


def test_update_domain(bundle, monkeypatch):
    before = snapshot(bundle)
    after = update_domain(bundle, "flowers", theta=0.5, metrics={"flops_share": 0.4})
    assert after.theta == 0.5 and after.metrics == {"val_accuracy": 0.5, "flops_share": 0.4}
    with Runtime(bundle) as runtime:
        assert runtime.load("flowers").theta == 0.5
    now = snapshot(bundle)
    assert [str(k) for k in now if now[k] != before[k]] == ["domains/flowers/domain.json"]
    assert update_domain(bundle, "flowers").theta == 0.5
    now = snapshot(bundle)
    for wrong in ({"theta": float("nan")}, {"metrics": {"val_accuracy": float("inf")}}):
        with pytest.raises(DomainError, match="finite"):
            update_domain(bundle, "flowers", **wrong)
    with pytest.raises(DomainError, match="unknown domain 'flwers'"):
        update_domain(bundle, "flwers", theta=1.0)

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BundleError, match="No space left"):
        update_domain(bundle, "flowers", theta=2.0)
    assert snapshot(bundle) == now
