"""What `run-engine` leaves in files and folders."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from labelled_photos import write_labelled
from PIL import Image
from synthetic_bundle import images

from da3.runtime import Runtime
from da3.runtime.app import annotate
from da3.runtime.app.commands import main
from da3.runtime.app.results import Results, Wanted, folder_name
from da3.runtime.errors import Da3Error, ImageError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_labelled(folder, ("a", "b"), each=3)
    return folder


@pytest.fixture
def run(built_with_exits, capsys):
    def call(*words):
        options = ["-b", str(built_with_exits[0]), "-d", "flowers", "--backend", "reference"]
        code = main(["run-engine", *map(str, words), *options], program="da3")
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture
def predictions(built_with_exits, photos):
    with Runtime(built_with_exits[0], backend="reference") as runtime:
        runtime.use("flowers")
        paths = sorted(str(path) for path in photos.glob("*/*.png"))
        return list(zip(paths, runtime.run(paths), strict=True))


def test_json_and_csv(run, photos, tmp_path, predictions):
    code, out, err = run(photos, "--save-json", tmp_path / "x" / "all.json", "--save-csv", tmp_path / "all.csv")
    assert (code, err) == (0, "") and "images/s" in out
    answer = json.loads((tmp_path / "x" / "all.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text())))
    for (path, prediction), one, row in zip(predictions, answer["predictions"], rows, strict=True):
        assert one["path"] == row["path"] == path and one["label"] == row["label"] == prediction.label
        assert float(row["probability"]) == pytest.approx(prediction.probability, rel=1e-4)
        assert (row["exit"], row["blocks_run"]) == ("", str(prediction.blocks_run))
    assert json.loads(run(photos, "--json")[1])["predictions"] == answer["predictions"]


def test_pictures_with_answers_on_them(run, photos, tmp_path):
    code, out, _ = run(photos, "--save-pictures", tmp_path / "seen")
    assert code == 0 and out.endswith(f"6 annotated pictures in {tmp_path}/seen\n")
    # The second folder's pictures have the names of the first's.
    assert sorted(os.listdir(tmp_path / "seen")) == ["0.jpg", "1.jpg", "2.jpg", "b-0.jpg", "b-1.jpg", "b-2.jpg"]
    with Image.open(tmp_path / "seen" / "b-1.jpg") as drawn, Image.open(photos / "b" / "1.png") as source:
        assert drawn.format == "JPEG" and drawn.width == 320 and drawn.height > 16 * 24
        picture = np.asarray(drawn)[-16 * 24 :].astype(int)
        assert abs(picture[8::16, 8::16] - np.asarray(source)).mean() < 12  # under the band all of it is there
    first = (tmp_path / "seen" / "0.jpg").read_bytes()
    assert run(photos, "--save-pictures", tmp_path / "seen")[0] == 0
    assert len(os.listdir(tmp_path / "seen")) == 6 and (tmp_path / "seen" / "0.jpg").read_bytes() == first


def test_the_band_says_it(predictions, tmp_path):
    _, prediction = predictions[0]
    left = prediction._replace(label="rosé", probability=0.931, exit=1, blocks_run=2, blocks_skipped=1)
    assert annotate.words(left) == ["rosé 93.1 %", "2 of 3 blocks, left at exit 2"]
    assert annotate.words(left._replace(label="薔薇\x1b"))[0] == "\\u8594\\u8587? 93.1 %"
    image = np.full((300, 400, 3), 99, np.uint8)
    plain = annotate.draw(image, ["", ""], (10, 200, 30))
    drawn = annotate.draw(image, annotate.words(left), (10, 200, 30))
    band = plain.shape[0] - 300
    assert (plain[band:] == 99).all() and (drawn[band:] == 99).all() and (plain[:band, 0] == (10, 200, 30)).all()
    lit = (drawn[:band] > 128).all(axis=2)
    lines = np.flatnonzero(lit.any(axis=1))
    assert lit.sum() > 300 and lines.min() < band // 2 < lines.max()  # both lines are written, in white
    wide = annotate.draw(image, ["x" * 300, ""], (10, 200, 30))  # is cut where the picture ends
    assert wide.shape == plain.shape and not (wide == plain).all()


def test_colours_say_how_sure_it_is(predictions, tmp_path):
    path, prediction = predictions[0]
    colours = []
    for sure in (prediction.probability - 0.01, prediction.probability + 0.01):
        annotate.write_annotated(path, str(tmp_path / "x.jpg"), prediction, sure)
        with Image.open(tmp_path / "x.jpg") as drawn:
            colours.append(np.asarray(drawn)[4, 1].astype(int))
    green, amber = colours
    assert green[1] > green[0] + 60 and amber[0] > amber[2] + 100 and amber[0] > amber[1]


def test_without_pillow_opencv_draws(predictions, tmp_path, monkeypatch):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    path, prediction = predictions[0]
    annotate.write_annotated(path, str(tmp_path / "x.jpg"), prediction)
    assert (tmp_path / "x.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_without_an_image_library(predictions, tmp_path, monkeypatch):
    for name in ("PIL", "cv2"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImageError, match="without an image library: pip install 'pillow>=6'"):
        annotate.write_annotated(predictions[0][0], str(tmp_path / "x.jpg"), predictions[0][1])
    assert os.listdir(tmp_path) == []


def test_unsure_pictures_are_copied_to_be_labelled(run, photos, tmp_path, predictions):
    limit = float(np.median([prediction.probability for _, prediction in predictions]))
    wanted = {}
    for path, prediction in predictions:
        if prediction.probability < limit:
            wanted.setdefault(prediction.label, []).append(path)
    code, out, _ = run(photos, "--unsure-below", limit, "--to", tmp_path / "next")
    assert code == 0 and "3 pictures below" in out and sum(map(len, wanted.values())) == 3
    copies = {name: list((tmp_path / "next" / name).iterdir()) for name in os.listdir(tmp_path / "next")}
    assert {name: len(paths) for name, paths in copies.items()} == {name: len(paths) for name, paths in wanted.items()}
    found = sorted(path.read_bytes() for paths in copies.values() for path in paths)
    assert found == sorted(Path(path).read_bytes() for paths in wanted.values() for path in paths)
    before = sorted((tmp_path / "next").glob("*/*"))
    assert run(photos, "--unsure-below", limit, "--to", tmp_path / "next")[0] == 0
    assert sorted((tmp_path / "next").glob("*/*")) == before  # what is there already is not copied again


def test_nothing_that_is_there_is_overwritten(predictions, tmp_path):
    (path, prediction), _ = predictions[0], None
    there = tmp_path / "next" / prediction.label / "0.png"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"something else")
    Results(Wanted(unsure_below=1.0, to=str(tmp_path / "next")))(path, prediction)
    assert there.read_bytes() == b"something else"
    assert (there.parent / "0-2.png").read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize(
    ("label", "name"),
    [("daisy", "daisy"), ("../up", "_.._up"), ("..", "_.."), ("a/b\\c", "a_b_c"), ("\x1b[2J", "_[2J"), ("", "_")],
)
def test_a_class_cannot_lead_out_of_the_folder(label, name, tmp_path):
    assert folder_name(label) == name
    assert (tmp_path / folder_name(label)).resolve().parent == tmp_path.resolve()


def test_images_of_an_array_have_no_picture(run, tmp_path):
    np.save(tmp_path / "x.npy", images(2))
    code, out, err = run(
        tmp_path / "x.npy", "--save-pictures", tmp_path / "a", "--unsure-below", 1, "--to", tmp_path / "b"
    )
    assert code == 0 and "0 annotated pictures" in out and "2 pictures below 1, 0 copied" in out
    assert err.count("not drawn: ") == 2 and err.count("x.npy[0] is no file of its own") == 1


def test_what_cannot_be_done_is_said_first(run, photos, tmp_path):
    (tmp_path / "file").write_text("")
    for words, message in (
        (("--unsure-below", 0.6), "--unsure-below and --to go together"),
        (("--to", tmp_path), "--unsure-below and --to go together"),
        (("--save-pictures", tmp_path / "file"), "there is a file of that name"),
        (("--unsure-below", 0.6, "--to", tmp_path / "file"), "--to: cannot make the folder"),
        (("--save-json", tmp_path), "is a folder: name a file in it"),
        (("--save-csv", tmp_path / "file" / "x.csv"), "--save-csv: cannot make the folder"),
    ):
        code, out, err = run(photos, *words)
        assert (code, out) == (1, "") and message in err and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


def test_a_disc_that_is_full(predictions, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("da3.runtime.app.results.replace_file", full)
    with pytest.raises(Da3Error, match="cannot write a result for .*: No space left on device"):
        Results(Wanted(unsure_below=1.0, to=str(tmp_path)))(*predictions[0])
