"""Checkpoints as files: read as they were written, by others too, and refused in one line when damaged."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save
from small_runs import CONFIG

from da3.runtime.bundle.safetensors import parse_safetensors
from da3.runtime.errors import CheckpointError
from da3.runtime.training.checkpoint import FORMAT, read, write, write_safetensors
from da3.runtime.training.config import Progress

MODEL = {
    "head.bias": np.arange(3, dtype=np.float32),
    "head.scale": np.float32(0.5).reshape(()),
    "seen": np.array([1, 2**40]),
    "half": np.ones((2, 3), np.float16).T,
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.float32),
}
OPTIMIZER = {"0.step": np.float32(7).reshape(()), "0.exp_avg": np.full((2, 2), 1e-3, np.float32)}


@pytest.fixture
def path(tmp_path):
    """A checkpoint of a run of two epochs, of which one is done."""
    path = tmp_path / "runs" / "last.safetensors"
    write(path, CONFIG, Progress(epoch=1, history=[{"epoch": 1, "val_loss": 0.5}]), MODEL, OPTIMIZER)
    return path


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[k].dtype == v.dtype and found[k].shape == v.shape and (found[k] == v).all() for k, v in expected.items()
    )


def test_what_was_written_is_read(path):
    found = read(path)
    assert (found.path, found.format, found.config) == (str(path), FORMAT, CONFIG)
    assert found.progress.epoch == 1 and found.progress.history == [{"epoch": 1, "val_loss": 0.5}]
    assert same(found.model, MODEL) and same(found.optimizer, OPTIMIZER)
    assert [p.name for p in path.parent.iterdir()] == ["last.safetensors"]


def test_the_safetensors_library_reads_it_and_is_read(path):
    loaded = load(path.read_bytes())
    assert same({k[len("model.") :]: v for k, v in loaded.items() if k.startswith("model.")}, MODEL)
    facts = {"format": 1, "config": CONFIG.to_json(), "progress": Progress().to_json()}
    tensors = {f"model.{k}": np.ascontiguousarray(v) for k, v in MODEL.items() if v.ndim}
    path.write_bytes(save(tensors, {"da3": json.dumps(facts)}))
    found = read(path)
    assert found.format == 1 and same(found.model, {k: v for k, v in MODEL.items() if v.ndim})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: write_safetensors(MODEL, {}), "'da3'"),
        (lambda data: write_safetensors(MODEL, {"da3": "[1]"}), "damaged"),
        (lambda data: write_safetensors(MODEL, {"da3": '{"format": 1, "config": [], "progress": {}}'}), "damaged"),
        (lambda data: data.replace(b'\\"format\\": %d' % FORMAT, b'\\"format\\": 9'), "newer da3: upgrade"),
        (lambda data: data.replace(np.float32(1e-3).tobytes(), np.float32("inf").tobytes()), "another sha256"),
        (lambda data: data.replace(b"head.bias", b"head.gias"), "another sha256"),
        (lambda data: data.replace(b"epoch", b"epocj"), "damaged"),
        (lambda data: data.replace(b'val_loss\\": 0.5', b'val_loss\\": 0.7'), "another sha256"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(path, damage, message):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="train the domain first"):
        read(tmp_path / "none.safetensors")


def test_every_flipped_bit_is_refused(path):
    """Or changes nothing that is read, as in the padding of the header."""
    data, expected = path.read_bytes(), read(path)
    rng = np.random.default_rng(0)
    end = 8 + int.from_bytes(data[:8], "little")
    places = [*rng.integers(0, len(data), 300), *range(end, len(data))]
    refused = 0
    for place, bit in zip(places, rng.integers(0, 8, len(places)), strict=True):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(bit)
        path.write_bytes(bytes(damaged))
        try:
            found = read(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert place < end, "a number was taken for another"
            assert same(found.model, expected.model) and same(found.optimizer, expected.optimizer)
            assert found.config == expected.config and found.progress.to_json() == expected.progress.to_json()
    assert refused > 0.9 * len(places)


def test_one_of_before_there_was_a_checksum_is_read(path):
    tensors, metadata = parse_safetensors(path.read_bytes(), "it")
    assert set(metadata) == {"da3", "sha256"}
    path.write_bytes(write_safetensors(tensors, {"da3": metadata["da3"]}))
    assert same(read(path).model, MODEL)
    broken = {**tensors, "model.head.bias": np.float32([1, np.nan, 2]), "optimizer.0.exp_avg": np.float32([np.inf])}
    path.write_bytes(write_safetensors(broken, {"da3": metadata["da3"]}))
    with pytest.raises(CheckpointError, match="since model.head.bias and 1 more hold NaN or infinity: train again"):
        read(path)


def test_what_is_not_finite_does_not_replace_what_is(path):
    before = path.read_bytes()
    model = {**MODEL, "half": np.full((2, 3), np.inf, np.float16)}
    with pytest.raises(CheckpointError, match="is not written, since model.half holds NaN or infinity: .*lower --lr"):
        write(path, CONFIG, Progress(epoch=2), model, OPTIMIZER)
    assert path.read_bytes() == before
