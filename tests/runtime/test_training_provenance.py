"""What is written down of where a run comes from: the same photos have one hash, options can be read again."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from small_runs import CONFIG

from da3.runtime.errors import CheckpointError, DataError
from da3.runtime.training import find_photos, options_file, provenance
from da3.runtime.training.checkpoint import read, read_facts, write
from da3.runtime.training.config import Progress

toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
MODEL = {"head.weight": np.ones((2, 3000), np.float32)}


def digest(folder):
    return provenance.photos_sha256(find_photos(folder, 0), 2)


def test_photos_are_told_by_what_they_show_and_what_they_are_called_by(photos, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(photos, copied)
    first = copied / "train" / "class0" / "0.jpg"
    first.rename(first.with_name("another-name.jpg"))
    same = digest(copied)
    assert same == digest(photos) and re.fullmatch("[0-9a-f]{64}", same)
    moved = first.with_name("another-name.jpg").rename(copied / "train" / "class1" / "from-0.jpg")
    assert digest(copied) != same, "another label"
    moved.rename(first)
    assert digest(copied) == same
    data = bytearray(first.read_bytes())
    data[-30] ^= 1
    first.write_bytes(data)
    assert digest(copied) != same, "another pixel"
    found = find_photos(copied, 0)
    first.unlink()
    with pytest.raises(DataError, match=r"cannot read .*0\.jpg: No such file"):
        provenance.photos_sha256(found, 1)


def test_what_is_written_down(photos):
    origin = provenance.Origin("pytorch", "da3 train -d x", {"weights": "demo"}, {"domain": "y"})
    told = provenance.provenance(CONFIG, find_photos(photos, 0), 1, origin)
    assert told == json.loads(json.dumps(told))
    assert told["photos"] == {"sha256": digest(photos), "train": 24, "val": 12}
    assert told["command"] == "da3 train -d x" and told["from"] == {"domain": "y"} and told["engine"] == "pytorch"
    assert told["versions"]["torch"] and told["versions"]["numpy"] == np.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["begun"])
    with_settings = provenance.of_domain(CONFIG, told)
    assert with_settings["settings"]["seed"] == 3 and with_settings["settings"]["flip"] is False
    assert "/photos" not in json.dumps(with_settings["settings"]), "folders of a user are no one else's business"


def test_a_checkpoints_facts_are_read_without_its_tensors(tmp_path):
    path = tmp_path / "last.safetensors"
    write(path, CONFIG, Progress(epoch=2), MODEL, {}, {"begun": "today"})
    facts = read_facts(path)
    assert (facts.config, facts.progress.epoch, facts.provenance) == (CONFIG, 2, {"begun": "today"})
    assert read(path).provenance == {"begun": "today"}
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])  # of the tensors
    assert read_facts(path).config == CONFIG and vars(read_facts(path).progress) == vars(facts.progress)
    for damaged in (whole[:40], b"", b"\xff" * 60):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged or no da3 checkpoint"):
            read_facts(path)
    with pytest.raises(CheckpointError, match="train the domain first"):
        read_facts(tmp_path / "none")


def test_checkpoints_of_before_are_read(tmp_path):
    path = tmp_path / "last.safetensors"
    write(path, CONFIG, Progress(), MODEL, {}, {"x": 1})
    data = path.read_bytes()
    old = data.replace(b', \\"provenance\\": {\\"x\\": 1}', b"")
    old = re.sub(rb', ?"sha256": ?"[0-9a-f]{64}"|"sha256": ?"[0-9a-f]{64}", ?', b"", old)  # nor had they this
    assert len(data) - len(old) > 90
    length = int.from_bytes(old[:8], "little") - (len(data) - len(old))
    path.write_bytes(length.to_bytes(8, "little") + old[8:])
    assert read(path).provenance == read_facts(path).provenance == {}


def test_options_are_read_as_they_were(tmp_path):
    others = {"weights": 'a "quoted" \\ path\n\x7f', "runs": "żółć 🚗", "workers": None, "from": "x", "resume": True}
    read_again = toml.loads(options_file.options_toml(CONFIG, others).decode())
    assert read_again["weights"] == others["weights"] and read_again["runs"] == others["runs"]
    assert read_again["resume"] is True and "workers" not in read_again
    assert read_again["lr"] == CONFIG.lr and read_again["batch-size"] == 16 and read_again["micro-batch"] == "4"
    assert read_again["keep-precision"] == "bf16" and "classes" not in read_again and "adaptor" not in read_again
    for value in (1e-12, 4e-3, 1.0, 2.5e16):
        assert toml.loads("x = " + options_file.toml_value(value))["x"] == value
