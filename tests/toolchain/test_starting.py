"""``da3 train --from``: a run that starts from a trained domain, with either engine, and with one more class."""

import shutil

import numpy as np
import pytest

from da3.export import export_domain
from da3.runtime.bundle import Bundle, read_domain, write_pack
from da3.runtime.errors import CheckpointError, TrainingError
from da3.runtime.learning import LearnOptions, find_start, learn
from da3.runtime.training import PhotoSet, Reporter, starting
from da3.runtime.training.checkpoint import read
from da3.toolchain.learning import EngineOptions, learn_on_engine
from da3.toolchain.training import TrainOptions, train

EARLIER = ("class1", "class2")  # of which class0 is the new one, first in the folder and last in the labels


class First(Reporter):
    """The mean loss and the accuracy of the first step, the notes, and then: stop."""

    def __init__(self):
        self.loss = self.accuracy = None
        self.notes = []

    def step(self, epoch, step, steps, sums, memory):
        if self.loss is None:
            self.loss, self.accuracy = sums["loss"] / sums["photos"], sums["correct"] / sums["photos"]

    def note(self, text):
        self.notes.append(text)

    def __call__(self):
        return self.loss is not None


@pytest.fixture(scope="module")
def two_classes(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for split in ("train", "val"):
        for name in EARLIER:
            shutil.copytree(photos / split / name, folder / split / name)
    return folder


@pytest.fixture
def asked(small_run):
    """``small_run``, on weights with which something is learnt in seconds."""
    return lambda domain, **changes: small_run(domain, **{"weights": "demo", **changes})


@pytest.fixture(scope="module")
def once(two_classes, tmp_path_factory):
    """A finished run of the domain "two"."""
    options = TrainOptions(
        domain="two",
        data=str(two_classes),
        runs=tmp_path_factory.mktemp("once") / "runs",
        weights="demo",
        size=32,
        epochs=4,
        batch_size=8,
        workers=2,
    )
    return train(options, Reporter())


@pytest.fixture
def trained(once, tmp_path):
    """The run, in the runs folder of the test."""
    shutil.copytree(once.folder.parent, tmp_path / "runs")
    return once


def rows(path):
    found = read(path)
    model = {name: array for name, array in found.model.items() if name.endswith(("head.weight", "head.bias"))}
    assert len(model) >= 2
    return found.config.classes, model


def test_more_photos_start_where_the_domain_ended(trained, asked, two_classes):
    """Steps that change nothing leave the domain as it was."""
    done, told = trained, First()
    again = train(asked("more", data=str(two_classes), start="two", lr=1e-9, epochs=1), told)
    assert again.best["val_loss"] == pytest.approx(done.best["val_loss"], rel=1e-3, abs=1e-6)
    assert again.best["val_accuracy"] == done.best["val_accuracy"]
    assert "starting from two: its 2 classes" in told.notes


@pytest.mark.parametrize("engine", ["pytorch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_one_more_class(engine, trained, asked, photos, tmp_path):
    before, model = rows(tmp_path / "runs" / "two" / "best.safetensors")
    assert before == EARLIER
    first = First()
    if engine == "pytorch":
        train(asked("three", start="two"), first, first)
    else:
        options = EngineOptions(
            "three", data=str(photos), runs=str(tmp_path / "runs"), start="two", batch_size=8, workers=1, epochs=2
        )
        learn_on_engine(options, first, first)
    last = tmp_path / "runs" / "three" / "last.safetensors"
    classes, grown = rows(last)
    assert classes == (*EARLIER, "class0")
    assert "starting from two: its 2 classes, and new: class0" in first.notes
    assert read(last).provenance["from"]["domain"] == "two"
    for name, array in grown.items():  # one step with the smallest learning rate has been made
        np.testing.assert_allclose(array[:2], model[name], atol=2e-3, err_msg=name)
        np.testing.assert_allclose(array[2], model[name].mean(axis=0), atol=2e-3, err_msg=name)
    # A stopped one goes on with the labels that it has.
    done = train(asked("three", resume=True), Reporter())
    assert done.finished and done.config.classes == classes and done.history[-1]["val_accuracy"] >= 0.5


def test_a_new_class_changes_no_answer():
    rng = np.random.RandomState(0)
    before = {"head.weight": rng.standard_normal((3, 5)).astype(np.float32), "head.bias": rng.randn(3)}
    fresh = {"head.weight": np.zeros((5, 5), np.float32), "head.bias": np.zeros(5)}
    grown = starting._with_classes(before, fresh, 3, 5, "three")
    features = rng.standard_normal((200, 5))
    logits = features @ grown["head.weight"].T + grown["head.bias"]
    assert (logits[:, :3].argmax(axis=1) == logits.argmax(axis=1)).all()
    with pytest.raises(CheckpointError, match=r"three has head.weight of shape \[3, 5\], this run \[3, 6\]"):
        starting._with_classes(before, {**fresh, "head.weight": np.zeros((3, 6))}, 3, 3, "three")
    with pytest.raises(CheckpointError, match="three lacks adaptors.0.down"):
        starting._with_classes(before, {**fresh, "adaptors.0.down": np.zeros((3, 6))}, 3, 5, "three")


def test_what_the_photos_decide_is_taken_over(asked, two_classes, tmp_path):
    own = {"flip": False, "label_smoothing": 0.02, "keep": 0.8}
    train(asked("two", data=str(two_classes), epochs=1, **own), Reporter())
    config = train(asked("three", start="two", keep=0.9, epochs=1), Reporter()).config
    assert (config.flip, config.label_smoothing, config.keep) == (False, 0.02, 0.9)
    text = (tmp_path / "runs" / "three" / "options.toml").read_text()
    assert 'from = "two"\n' in text and "flip = false\n" in text and "keep = 0.9\n" in text


@pytest.mark.parametrize("way", ["pytorch", pytest.param("onnxruntime", marks=pytest.mark.slow), "learn"])
def test_a_pack_is_started_from(way, trained, asked, photos, tmp_path):
    """Its first step is that of a run from its checkpoint, though what it normalises by is measured anew."""
    runs, home = tmp_path / "runs", tmp_path / "bundle"
    export_domain("two", runs, home)
    pack = write_pack(home, "two", tmp_path / "two.da3")
    expected, found = First(), First()
    train(asked("of-run", start="two", keep_precision="fp32"), expected, expected)
    if way == "pytorch":
        train(asked("of-pack", start=pack, keep_precision="fp32"), found, found)
    elif way == "onnxruntime":
        options = EngineOptions(
            "of-pack", data=str(photos), runs=str(runs), start=pack, batch_size=8, workers=1, threads=1
        )
        learn_on_engine(options, found, found)
    else:
        options = LearnOptions(
            "of-pack", str(photos), str(home), str(tmp_path / "board"), batch_size=8, start="two", threads=1, workers=1
        )
        learn(options, found, found)
    assert found.loss == pytest.approx(expected.loss, rel=2e-2), (found.loss, expected.loss)


def test_a_domain_of_a_bundle_grows_in_it(trained, photos, tmp_path):
    home = tmp_path / "bundle"
    export_domain("two", tmp_path / "runs", home)
    options = LearnOptions(
        "two", str(photos), str(home), str(tmp_path / "board"), 1, start="two", overwrite=True, threads=1, workers=1
    )
    done = learn(options, Reporter())
    assert done.domain.classes == (*EARLIER, "class0")
    with Bundle(home) as bundle:
        told = read_domain(bundle, "two").provenance
    assert told["from"]["domain"] == "two" and told["photos"]["train"] == 24 and told["from"]["photos"]["train"] == 16


def test_what_cannot_be_is_refused_before_anything_is_written(trained, asked, photos, weights_files, tmp_path):
    other = str(weights_files["mobilenet_v2"])
    for changes, said in (
        ({"start": "nobody"}, "--from nobody: name a finished run"),
        ({"start": "two", "size": 64}, "cannot start from two with --size 64: it was trained with 32"),
        ({"start": "two", "method": "linear"}, "cannot start from two with --method linear: it was trained with da3"),
        ({"start": "two", "weights": other}, "cannot start from two: it was trained on other weights"),
        ({"start": "two", "resume": True}, "--from is of a new run"),
    ):
        with pytest.raises((CheckpointError, TrainingError), match=said):
            train(asked("other", **{"weights": None, "size": None, **changes}), Reporter())
    fewer = tmp_path / "fewer"
    for split in ("train", "val"):
        for name in ("class0", "class1"):
            shutil.copytree(photos / split / name, fewer / split / name)
    with pytest.raises(TrainingError, match="two knows the class class2, of which there are no photos here"):
        train(asked("other", data=str(fewer), start="two"), Reporter())
    assert not (tmp_path / "runs" / "other").exists()


def test_photos_that_are_split_anew_are_warned_of(trained, two_classes, tmp_path):
    start = find_start("two", str(tmp_path / "runs"))
    config = read(tmp_path / "runs" / "two" / "best.safetensors").config
    kept, split = First(), First()
    photos = PhotoSet(EARLIER, (("a", 0),) * 17, (("b", 0),) * 8)
    starting.check_start(start, config, photos, kept)
    starting.check_start(start, config._replace(data=str(two_classes / "train")), photos, split)
    assert len(kept.notes) == 1 and "may have been trained on some of the latter" in split.notes[1]
