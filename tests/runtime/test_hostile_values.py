"""Numbers and names of a manifest or a domain that are allowed by JSON, and by nothing else."""

import json

import numpy as np
import pytest
from hostile import changed, within
from synthetic_bundle import write_domain

from da3.runtime import Bundle, BundleError, DomainError, Runtime
from da3.runtime.bundle import add_pack, read_pack
from da3.runtime.errors import ImageError
from da3.runtime.images.paths import list_labelled


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(content):
        for key in path:
            content = content[key]
        content[last] = value

    return change


def everywhere(old, new):
    """Every shape of a manifest with one number in the place of another."""

    def change(content):
        text = json.dumps(content).replace(f'"batch", {old}, 8, 8]', f'"batch", {new}, 8, 8]')
        content.clear()
        content.update(json.loads(text))

    return change


MANIFEST = {
    "channels": (everywhere(4, 20_001_000), "shape .*20001000.* has more than 8 dimensions or 33554432 numbers"),
    "all together": (everywhere(4, 400_000), "numbers in the values of its plan, more than"),
    "dimensions": (put("segments", "stem", "outputs", 0, "shape", ["batch"] + [1] * 200), "more than 8 dimensions"),
    "a huge shape": (put("segments", "stem", "outputs", 0, "shape", ["batch", 10**200]), "33554432 numbers"),
    "crop": (
        put("preprocessing", "crop", 0.001),
        "shorter side of a picture, and may be 8192 pixels at most, not 16000",
    ),
    "size": (put("preprocessing", "size", 10**250), "8192 pixels at most, not 1.14286e[+]250"),
    "crop of nothing": (put("preprocessing", "crop", 5e-324), "8192 pixels at most"),
    "mean": (put("preprocessing", "mean", [10**250, 0, 0]), "mean is from -1000 to 1000"),
    "std": (put("preprocessing", "std", [1e-321, 1, 1]), "std from 0.0001"),
    "large std": (put("preprocessing", "std", [1, 1, 1e300]), "std from 0.0001 to 10000"),
    "flops": (put("blocks", 0, "flops", 1e308), "flops are 1e[+]15 at most, not 1e[+]308"),
    "steps": (lambda m: m.update(plan=m["plan"] * 1000), "more than 4096 steps"),
    "blocks": (lambda m: m.update(blocks=m["blocks"] * 1000), "or 1024 blocks"),
    "bytes": (lambda m: [e.update(bytes=1 << 28) for e in m["files"].values()], "bytes in the files of its steps"),
    "a name of a gigabyte": (
        put("segments", "stem", "outputs", 0, "name", "x" * 10**6),
        "'xxx.* is no name of up to 256",
    ),
    "an escape": (put("blocks", 0, "name", "\x1b[2J"), r"'\\x1b\[2J' is no name"),
    "a line": (lambda m: m["segments"].update({"a\nerror: b": m["segments"]["stem"]}), r"'a\\nerror: b' is no name"),
    "no name": (put("segments", "stem", "outputs", 0, "name", ""), "'' is no name"),
}


@pytest.mark.parametrize("name", MANIFEST)
def test_a_manifest_that_asks_for_too_much(bundle, name):
    change, message = MANIFEST[name]
    changed(bundle / "manifest.json", change)
    with within(40), pytest.raises(BundleError, match=message):
        Bundle(bundle)


def test_tensors_of_a_domain_are_bounded(exits_bundle):
    """Blank ones are made for what a domain lacks."""

    def change(content):
        for segment in content["segments"].values():
            for value in segment["inputs"]:
                if value["name"] == "shift":
                    value["shape"] = [1 << 25]
                if value["name"] == "exit_down":
                    value["shape"] = [1 << 24, 2]

    changed(exits_bundle / "manifest.json", change)
    with (
        within(20),
        pytest.raises(BundleError, match="numbers in the tensors of a domain, more than the 67108864 allowed"),
    ):
        Bundle(exits_bundle)


CLASSES = {
    "an escape": "\x1b[2Jdaisy",
    "a line": "daisy\nerror: none",
    "the other direction": "daisy\u202e",
    "half a pair": "\ud800",
    "nothing": "",
    "a book": "x" * 10**4,
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_do_more_than_stand_there(tmp_path, weights, name):
    pack = write_domain(tmp_path / "pack", "flowers", weights["flowers"])
    changed(pack / "domain.json", put("classes", 0, CLASSES[name]))
    with pytest.raises((DomainError, BundleError), match="use printable|printable characters|surrogates") as caught:
        read_pack(pack)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_classes_of_any_script(tmp_path, bundle, weights):
    names = ["ромашка", "雛菊", "👩‍🌾 daisy"]
    pack = write_domain(tmp_path / "pack", "any", weights["flowers"])
    changed(pack / "domain.json", put("classes", names))
    assert list(add_pack(bundle, pack).classes) == names


def test_class_folders_that_do_more_than_stand_there(tmp_path):
    for name in ("a", "b\x1b[2J"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"class folder 'b\\x1b\[2J': use printable characters"):
        list_labelled(tmp_path)


def test_a_tensor_nobody_asked_for_is_bounded(tmp_path, weights):
    pack = write_domain(tmp_path / "pack", "flowers", weights["flowers"])
    with open(pack / "weights.safetensors", "r+b") as file:
        file.truncate(1 << 30)
    changed(pack / "domain.json", put("weights", "bytes", 1 << 30))
    with within(1), pytest.raises(BundleError, match="weights.safetensors has 1073741824 bytes, more than"):
        read_pack(pack)


def test_sizes_of_a_good_domain_are_as_before(built):
    with Runtime(built[0]) as runtime:
        assert np.isfinite(runtime.load("flowers").weights["head.weight"]).all()
