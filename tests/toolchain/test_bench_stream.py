"""``da3 bench stream``: a camera of known times, and what is made of them."""

import io
import json

import numpy as np
import pytest
import synthetic_bundle
from PIL import Image

pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'da3[video]'")

from typer.testing import CliRunner

from da3.runtime.errors import StreamError
from da3.toolchain.bench import SilentBenchReporter, bench_stream, stream_table
from da3.toolchain.bench.loopback_camera import parse_jpeg
from da3.toolchain.bench.marked_frames import camera_frames, mark, number_of
from da3.toolchain.bench.stream import _sent_after
from da3.toolchain.cli.commands import app


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    synthetic_bundle.write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def report(bundle, photos):
    images = [str(photos / "val")]
    options = {"frames": 130, "fps": 100.0, "size": (160, 96), "images": images, "backend": "reference"}
    return bench_stream(bundle, "flowers", SilentBenchReporter(), **options)


def test_what_is_measured(report):
    assert report["frames"] == 130 and report["domain"] == "flowers" and report["fps"] <= 130
    for p in ("p50", "p90", "p99"):
        # A frame cannot arrive before it is sent; all of its way is longer than each part of it.
        assert 0 < report["sent_to_arrival_ms"][p] <= report["sent_to_answer_ms"][p]
        assert report["engine_ms"][p] + report["prepare_ms"][p] <= 1.02 * 2 * report["arrival_to_answer_ms"][p]
    assert report["sent_to_answer_ms"]["p50"] < 2000  # a wrong turn of the 240 frames would be 2400 off
    assert 0 < report["engine_share"] < 1 and report["settled_bytes"] > 10e6
    assert abs(report["growth_bytes"]) < 50e6 and report["conditions"]["size"] == "160x96"
    json.dumps(report)


def test_the_table_says_it(report):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(stream_table(report))
    text = console.file.getvalue()
    assert f"{report['sent_to_answer_ms']['p99']:.2f}" in text and "dropped for newer ones" in text
    assert "after 100 frames, since then" in text and "sent_fps 100.0" in text


@pytest.mark.parametrize(
    ("number", "arrived", "sent"),
    [(0, 0.01, 0.0), (5, 0.2, 0.05), (5, 2.44, 0.05), (5, 2.46, 2.45), (239, 2.395, 2.39), (0, 24.01, 24.0)],
)
def test_when_a_frame_was_sent(number, arrived, sent):
    assert _sent_after(number, arrived, 100) == pytest.approx(sent)


def test_frames_say_which_one_they_are():
    for number, frame in enumerate(camera_frames(40, 160, 96)):
        with Image.open(io.BytesIO(frame)) as image:
            assert image.size == (160, 96) and number_of(np.asarray(image)) == number
    image = np.full((96, 160, 3), 128, np.uint8)
    for number in (0, 1, 682, 1023):
        mark(image, number)
        assert number_of(image) == number


def jpeg(width=64, height=48, **options):
    packed = io.BytesIO()
    Image.new("RGB", (width, height), (9, 200, 30)).save(packed, "JPEG", **options)
    return packed.getvalue()


def test_which_jpegs_rtp_can_send():
    assert parse_jpeg(jpeg())[:3] == (64, 48, 1) and parse_jpeg(jpeg(subsampling="4:2:2")).kind == 0
    assert len(parse_jpeg(jpeg()).tables) == 128
    for odd in (jpeg(subsampling="4:4:4"), jpeg(progressive=True), jpeg(width=60), jpeg(height=2048)):
        with pytest.raises(ValueError, match="baseline JPEGs"):
            parse_jpeg(odd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (650, 480)}, "multiples of 16"),
        ({"size": (64, 64)}, "from 96 to 2032"),
        ({"frames": 100}, "more than 100 are needed"),
    ],
)
def test_what_cannot_be_measured(bundle, options, message):
    with pytest.raises(StreamError, match=message):
        bench_stream(bundle, "flowers", SilentBenchReporter(), **options)


def test_the_command(bundle):
    words = ["bench", "stream", str(bundle), "-d", "flowers", "--frames", "101", "--fps", "200", "--size", "160x96"]
    done = CliRunner().invoke(app, [*words, "--backend", "reference", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 101
    done = CliRunner().invoke(app, ["bench", "stream", str(bundle), "--size", "large"])
    assert isinstance(done.exception, StreamError) and "--size large: use WIDTHxHEIGHT" in str(done.exception)
