"""Streams: what an address means, real files and a real network camera read, answered, recorded."""

import contextlib
import http.server
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'da3[video]'")

from videos import HEIGHT, WIDTH, frames_of, jpegs, number_of, picture, write_video  # noqa: E402

from da3.runtime import Runtime  # noqa: E402
from da3.runtime.errors import StreamError  # noqa: E402
from da3.runtime.records import Prediction  # noqa: E402
from da3.runtime.streams import (  # noqa: E402
    Durations,
    FrameReader,
    Recorder,
    Smoother,
    Watcher,
    Window,
    is_stream,
    opencv,
    opening,
    parse_address,
    prepared,
    reading,
    recording,
    showing,
)
from da3.runtime.streams.pipelines import csi_pipeline, rtsp_pipeline  # noqa: E402
from da3.toolchain.bench.loopback_camera import LoopbackCamera  # noqa: E402


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {suffix: write_video(folder / f"a{suffix}", 30) for suffix in (".mp4", ".avi")}


@pytest.fixture(scope="module")
def pictures():
    return jpegs(64)


@pytest.fixture
def soon(monkeypatch):
    """A stream that dropped is tried again at once."""
    monkeypatch.setattr(reading, "_FIRST_WAIT", 0.05)


# -- addresses


@pytest.mark.parametrize(
    ("word", "kind", "text", "live"),
    [
        ("/dev/video0", "device", "/dev/video0", True),
        ("/dev/video12?width=640&height=480&fps=60&format=MJPG", "device", "/dev/video12", True),
        ("csi://1", "csi", "1", True),
        ("rtsp://camera/a.mp4", "network", "rtsp://camera/a.mp4", True),
        ("http://camera/video.mjpg", "network", "http://camera/video.mjpg", True),
        ("https://host/film.MP4?token=1", "network", "https://host/film.MP4?token=1", False),
        ("clips/a.MOV", "file", "clips/a.MOV", False),
        ("./0.mp4", "file", "./0.mp4", False),
    ],
)
def test_what_an_address_means(word, kind, text, live):
    assert is_stream(word)
    found = parse_address(word)
    assert (found.kind, found.text, found.live) == (kind, text, live)
    assert found.number("width") == (640 if "width" in word else None)


@pytest.mark.parametrize("word", ["photo.jpg", "folder", "-", "a.npy", "*.jpg", "/dev/null", "video", "1000000"])
def test_pictures_are_no_streams(word):
    assert not is_stream(word)


def test_a_folder_is_no_video_and_a_path_no_camera(tmp_path, monkeypatch):
    (tmp_path / "clips.mp4").mkdir()
    (tmp_path / "0").mkdir()  # a class of digits, say
    monkeypatch.chdir(tmp_path)
    assert not is_stream("clips.mp4") and not is_stream("0") and is_stream("1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("0", "0 names two cameras: say /dev/video0 for the one on USB, csi://0 for"),
        ("csi://", "the number of a sensor is missing"),
        ("csi://0?fourcc=1", "'fourcc' is no option: use width, height, fps, flip"),
        ("csi://0?flip=8", "flip=8 is not a number from 0 to 7"),
        ("/dev/video0?width=wide", "width=wide is not a number from 1 to 16384"),
        ("/dev/video0?format=!x", "format=!x is not four letters"),
        ("rtsp://a b", "is no address"),
        ("photo.jpg", "photo.jpg is no stream: use /dev/video0, csi://0, rtsp://..., http://... or a video file"),
    ],
)
def test_addresses_that_are_refused(word, message):
    with pytest.raises(StreamError) as refused:
        parse_address(word)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_password_is_shown_to_nobody():
    assert parse_address("rtsp://me:se:c@ret@camera:554/a").shown == "rtsp://me:***@camera:554/a"
    assert parse_address("rtsp://camera/a:b@c").shown == "rtsp://camera/a:b@c"


def test_pipelines():
    pipeline = csi_pipeline(parse_address("csi://2?width=1920&height=1080&fps=60&flip=2"))
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=2 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink "
    )
    assert "drop=true max-buffers=1 sync=false" in pipeline
    assert "width=1280,height=720,framerate=30/1" in csi_pipeline(parse_address("csi://0"))
    # Nothing in an address leads out of its quotes, into elements of its own.
    found = rtsp_pipeline('rtsp://a/"!filesink', nvidia=True)
    assert 'location="rtsp://a/%22!filesink" protocols=tcp' in found and "decodebin ! nvvidconv !" in found
    assert "nvvidconv" not in rtsp_pipeline("rtsp://a", nvidia=False)


# -- opening


def fake_cv2(opens, **parts):
    """An OpenCV that was built with some parts, and whose captures open where `opens` says so."""
    tried = []

    class Capture:
        def __init__(self, words, reader, parameters=()):
            tried.append((words, reader, list(parameters)))
            self.properties = {}
            self.open = opens(words, reader, parameters)

        def isOpened(self):
            return self.open

        def set(self, key, value):
            self.properties[key] = value

        def get(self, key):
            return self.properties.get(key, 0)

        def getBackendName(self):
            return "FAKE"

        def release(self):
            pass

    names = {name: f"<{name}>" for name in ("CAP_FFMPEG", "CAP_GSTREAMER", "CAP_V4L2", "CAP_ANY")}
    numbers = {name: value for name, value in vars(cv2).items() if name.startswith("CAP_PROP")}
    built = "".join(f"  {part}:  {word}\n" for part, word in parts.items())
    return types.SimpleNamespace(
        **names,
        **numbers,
        VideoCapture=Capture,
        VideoWriter_fourcc=cv2.VideoWriter.fourcc,
        error=cv2.error,
        getBuildInformation=lambda: built,
        tried=tried,
    )


@pytest.fixture
def with_opencv(monkeypatch):
    def use(jetson=False, opens=lambda *_: True, **parts):
        fake = fake_cv2(opens, **parts)
        monkeypatch.setattr(opening, "load_opencv", lambda: fake)
        monkeypatch.setattr(opening, "is_jetson", lambda: jetson)
        return fake

    return use


def test_what_reads_a_network_stream(with_opencv, monkeypatch):
    monkeypatch.delenv("OPENCV_FFMPEG_THREADS", raising=False)
    address = parse_address("rtsp://127.0.0.1:9/x")
    both = {"FFMPEG": "YES", "GStreamer": "YES (1.20)"}
    fake = with_opencv(**both)
    opening.open_stream(address)
    (words, reader, parameters), *more = fake.tried
    assert (words, reader, more) == ("rtsp://127.0.0.1:9/x", "<CAP_FFMPEG>", [])
    # With n threads each frame would come n - 1 frames late.
    assert dict(zip(parameters[::2], parameters[1::2], strict=True)) == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 10000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 10000,
        cv2.CAP_PROP_N_THREADS: 1,
    }
    fake = with_opencv(jetson=True, **both)  # which decodes in hardware through GStreamer
    opening.open_stream(address)
    assert [way[1] for way in fake.tried] == ["<CAP_GSTREAMER>"] and "nvvidconv" in fake.tried[0][0]
    fake = with_opencv(jetson=True, opens=lambda _, reader, __: reader == "<CAP_FFMPEG>", **both)
    opening.open_stream(address)
    assert [way[1] for way in fake.tried] == ["<CAP_GSTREAMER>", "<CAP_FFMPEG>"]

    def old(words, reader, parameters):
        if parameters:
            raise TypeError("takes at most 2 arguments")
        return True

    fake = with_opencv(opens=old, FFMPEG="YES")
    opening.open_stream(address)
    assert fake.tried[-1] == (address.text, "<CAP_FFMPEG>", [])
    monkeypatch.setenv("OPENCV_FFMPEG_THREADS", "4")
    fake = with_opencv(FFMPEG="YES")
    opening.open_stream(address)
    assert cv2.CAP_PROP_N_THREADS not in fake.tried[0][2][::2]


def test_a_camera_is_asked_for_its_format_first(with_opencv, monkeypatch, tmp_path):
    monkeypatch.setattr(opening.os.path, "exists", lambda path: True)
    monkeypatch.setattr(opening.os, "access", lambda *_: True)
    with_opencv()
    opened = opening.open_stream(parse_address("/dev/video3?width=1280&height=720&fps=60&format=mjpg"))
    assert list(opened.capture.properties.items()) == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 60),
    ]
    assert (opened.fps, opened.frames) == (60.0, None)


def test_a_csi_camera(with_opencv):
    address = parse_address("csi://0")
    with_opencv(GStreamer="NO", FFMPEG="YES")
    with pytest.raises(StreamError, match=r"csi://0 needs an OpenCV with GStreamer, .* nvidia-opencv"):
        opening.open_stream(address)
    fake = with_opencv(GStreamer="YES (1.14.5)")
    opening.open_stream(address)
    assert fake.tried == [(csi_pipeline(address), "<CAP_GSTREAMER>", [])]
    with_opencv(GStreamer="YES (1.14.5)", opens=lambda *_: False)
    with pytest.raises(StreamError, match="cannot open csi://0: no camera is found there"):
        opening.open_stream(address)


def test_what_does_not_open_says_why(tmp_path, monkeypatch):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video " * 100)
    for word, message in (
        (tmp_path / "gone.mp4", "no such video: "),
        (tmp_path / "empty.mp4", "is empty \\(0 bytes\\)"),
        (tmp_path / "text.mp4", "text.mp4 is not a readable video$"),
        ("/dev/video99", "no camera at /dev/video99: there is "),
        (
            "rtsp://me:secret@127.0.0.1:9/x",
            r"cannot open rtsp://me:\*\*\*@127.0.0.1:9/x: 127.0.0.1, port 9: Connection ref",
        ),
        ("rtsp://[::1]:9/x", "port 9: "),
        ("http://127.0.0.1:99999/x", "port 99999: "),
    ):
        with pytest.raises(StreamError, match=message):
            FrameReader(parse_address(str(word))).wait_until_open()
    monkeypatch.setattr(opening.os, "access", lambda *_: False)
    monkeypatch.setattr(opening.os.path, "exists", lambda _: True)
    with pytest.raises(StreamError, match=r"Permission denied: sudo usermod -aG video"):
        opening.open_stream(parse_address("/dev/video0"))


def test_a_server_that_plays_nothing():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with pytest.raises(StreamError, match="it answers, but plays no video there: check the path, the user"):
            FrameReader(parse_address(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x")).wait_until_open()


@pytest.mark.parametrize(
    ("jetson", "way_out"), [(False, r"pip install 'da3\[video\]'"), (True, "sudo apt-get install nvidia-opencv")]
)
def test_without_opencv(monkeypatch, jetson, way_out):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(opencv, "is_jetson", lambda: jetson)
    with pytest.raises(StreamError, match="streams need OpenCV: " + way_out):
        opencv.load_opencv()


def test_an_opencv_that_does_not_load(monkeypatch):
    monkeypatch.delitem(sys.modules, "cv2")
    real = __import__

    def broken(name, *rest, **more):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file\nmore")
        return real(name, *rest, **more)

    monkeypatch.setattr("builtins.__import__", broken)
    with pytest.raises(StreamError, match=r"does not load \(libGL.so.1: cannot open shared object file\): pip"):
        opencv.load_opencv()


# -- reading


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_every_frame_of_a_file_comes_in_order(videos, suffix):
    with FrameReader(parse_address(str(videos[suffix]))) as reader:
        frames = []
        for frame in reader:
            time.sleep(0.002 * (len(frames) % 5))  # whoever is slow misses none
            frames.append(frame)
    assert [number_of(frame.image) for frame in frames] == list(range(30)) == [frame.number for frame in frames]
    assert [frame.position for frame in frames] == pytest.approx([n / 30 for n in range(30)])
    assert reader.fps == 30 and reader.dropped == reader.damaged == 0 and reader.ended and reader.next(0) is None
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_each_third_frame(videos):
    with FrameReader(parse_address(str(videos[".avi"])), every=3) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(0, 30, 3))


def test_a_file_at_its_own_pace_drops_what_is_late(videos):
    with FrameReader(parse_address(str(videos[".avi"])), realtime=True) as reader:
        first = reader.next(10)
        time.sleep(0.35)
        after = [frame.number for frame in reader]
    assert first.number == 0 and after[0] >= 5 and after == sorted(after)
    assert after[-1] == 29 and reader.dropped == 30 - 1 - len(after) >= 5


def test_a_reader_can_be_left_early(videos):
    with FrameReader(parse_address(str(videos[".mp4"]))) as reader:
        assert reader.next(10).number == 0
        time.sleep(0.2)
        assert len(reader._waiting) == 2 and reader.next(10).number == 1  # and no more of it is read ahead
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_a_file_that_is_cut_off(videos, tmp_path):
    whole = videos[".avi"].read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    frames = []
    with (
        FrameReader(parse_address(str(cut))) as reader,
        pytest.raises(StreamError, match=r"ends after \d+ of its 30 fr"),
    ):
        frames += reader
    assert 5 < len(frames) < 25


def test_the_newest_frame_of_a_camera_is_at_hand(pictures):
    with LoopbackCamera(pictures, fps=50) as camera, FrameReader(parse_address(camera.url)) as reader:
        reader.next(10)
        time.sleep(0.4)
        numbers = [number_of(reader.next(10).image) for _ in range(5)]
        lag = time.monotonic()
        frame = reader.next(10)
        assert frame.time == pytest.approx(time.time(), abs=0.5) and time.monotonic() - lag < 1
        time.sleep(0.5)
        after = reader.next(10)
    # One of those that came meanwhile was kept, the last; then they come one by one.
    steps = [(b - a) % 64 for a, b in itertools.pairwise(numbers)]
    assert reader.dropped >= 8 and all(0 < step < 40 for step in steps)
    assert frame.position is None and frame.scene == 0
    assert after.number - frame.number == pytest.approx((after.seen - frame.seen) * 50, abs=20)


def test_opening_keeps_nobody_waiting(monkeypatch, videos):
    """Ctrl-C is heard meanwhile: a stream may take ten seconds to say nothing."""
    go = threading.Event()
    real = opening.open_stream
    monkeypatch.setattr(reading, "open_stream", lambda address: go.wait(60) and real(address))
    reader = FrameReader(parse_address(str(videos[".avi"])))
    assert reader.next(0.01) is None and not reader.ended and reader.fps is reader.library is None
    told = []
    threading.Timer(1.3, go.set).start()
    reader.close(on_wait=lambda: told.append(1))
    assert told == [1] and reader.ended


def test_a_stream_that_drops_is_opened_again(pictures, soon):
    with LoopbackCamera(pictures, fps=50) as camera, FrameReader(parse_address(camera.url)) as reader:
        before = reader.next(10)
        camera.drop()
        scenes = []
        while 1 not in scenes:
            frame = reader.next(10)
            assert frame is not None
            scenes.append(frame.scene)
        news = reader.news()
        assert number_of(frame.image) < 60 and frame.number > before.number and camera.played == 2
    dropped, back = news
    assert "it dropped after" in dropped and dropped.endswith("trying again in 0.05 s") and back.endswith("it is back")
    assert reader.scene == 1 and reader.news() == []


def test_a_stream_that_falls_silent_is_opened_again(pictures, soon, monkeypatch):
    """Its connection stays: a camera that hangs, or a cable that was pulled."""
    if not hasattr(cv2, "CAP_PROP_READ_TIMEOUT_MSEC"):
        pytest.skip("this OpenCV waits for 30 s")
    monkeypatch.setattr(opening, "READ_WITHIN", 0.5)
    with LoopbackCamera(pictures, fps=50) as camera, FrameReader(parse_address(camera.url)) as reader:
        reader.next(10)
        camera.silent = True
        end = time.monotonic() + 20
        while not reader._news and time.monotonic() < end:
            reader.next(0.05)
        camera.silent = False
        while reader.scene == 0 and time.monotonic() < end:
            reader.next(0.05)
        assert reader.scene == 1 and camera.played == 2
    assert "it dropped after" in reader.news()[0]


def test_a_stream_that_stays_away(pictures, soon):
    with LoopbackCamera(pictures, fps=50) as camera:
        with FrameReader(parse_address(camera.url), reconnects=3) as reader:
            reader.next(10)
            camera.close()
            with pytest.raises(StreamError, match=r"Connection refused, tried 3 times since it dropped"):
                while True:
                    reader.next(10)
        assert [line.rsplit(" ", 2)[1] for line in reader.news()] == ["0.05", "0.1", "0.2"]


def test_a_stream_that_nobody_wants_again(pictures):
    camera = LoopbackCamera(pictures, fps=50, most=3)
    with camera, FrameReader(parse_address(camera.url), reconnects=0) as reader:
        with pytest.raises(StreamError, match="dropped after 3 frames"):
            list(reader)
        assert camera.played == 1


@pytest.fixture
def web(videos, pictures):
    """The port of a web server on loopback that has a camera's pictures, one after another, and a video file."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if ".avi" in self.path:
                data = videos[".avi"].read_bytes()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for jpeg in itertools.cycle(pictures):
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    self.wfile.write(head + jpeg + b"\r\n")
                    time.sleep(0.02)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_web_camera_and_a_video_on_the_web(web):
    with FrameReader(parse_address(f"http://127.0.0.1:{web}/camera.mjpg")) as reader:
        numbers = [number_of(reader.next(10).image) for _ in range(5)]
    assert reader.newest and all(0 < (b - a) % 64 < 40 for a, b in itertools.pairwise(numbers))
    with FrameReader(parse_address(f"http://127.0.0.1:{web}/a.avi?token=1")) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(30))


def test_what_breaks_while_reading_is_told(videos, monkeypatch):
    def broken(image):
        raise ValueError("odd")

    monkeypatch.setattr(opening, "_three_channels", broken)
    with FrameReader(parse_address(str(videos[".avi"]))) as reader:
        reader._thread.join()
        with pytest.raises(ValueError, match="odd"):
            list(reader)


def test_what_opencv_raises_is_a_frame_less_or_the_end(videos, monkeypatch):
    class Moody:
        """A capture of a release that raises where others return False."""

        def __init__(self, *words):
            self.real, self.grabbed = cv2.VideoCapture(*words), 0

        def __getattr__(self, name):
            return getattr(self.real, name)

        def grab(self):
            self.grabbed += 1
            if self.grabbed > 10:
                raise cv2.error("the pipeline broke")
            return self.real.grab()

        def retrieve(self):
            if self.grabbed == 3:
                raise cv2.error("odd colours")
            return self.real.retrieve()

    monkeypatch.setattr(opening, "_capture", lambda cv2, words, reader, parameters: Moody(words, reader))
    monkeypatch.setattr(reading, "_COUNTED", ())
    with FrameReader(parse_address(str(videos[".avi"]))) as reader:
        assert [frame.number for frame in reader] == [0, 1, *range(3, 10)] and reader.damaged == 1


def test_grey_cameras_and_such():
    image = np.arange(12, dtype=np.uint8)
    for given, wanted in (
        (image.reshape(3, 4), np.repeat(image.reshape(3, 4, 1), 3, axis=2)),
        (image.reshape(3, 4, 1), np.repeat(image.reshape(3, 4, 1), 3, axis=2)),
        (image.reshape(1, 3, 4), image.reshape(1, 3, 4)[:, :, :3]),
        (image.reshape(2, 2, 3), image.reshape(2, 2, 3)),
    ):
        assert np.array_equal(opening._three_channels(given), wanted)


# -- answering


def prediction(*probabilities, domain="signs"):
    found = np.array(probabilities, np.float32)
    index = int(found.argmax())
    names = tuple("abc"[: len(found)])
    return Prediction(names[index], index, float(found[index]), found, found, 3, 0, (), 1.0, domain, names)


def test_smoothing_is_the_mean_of_probabilities():
    smooth = Smoother(3)
    assert smooth(prediction(0.9, 0.1)).label == "a"
    answer = smooth(prediction(0.3, 0.7))
    assert (answer.label, answer.index) == ("a", 0) and answer.probability == pytest.approx(0.6)
    assert answer.probabilities.dtype == np.float32 and answer.probabilities == pytest.approx([0.6, 0.4])
    assert smooth(prediction(0.3, 0.7)).probability == pytest.approx(0.5)
    assert smooth(prediction(0.3, 0.7)).label == "b"  # the first is forgotten
    assert smooth(prediction(0.3, 0.7)).probability == pytest.approx(0.7)


def test_smoothing_begins_anew():
    smooth = Smoother(5)
    smooth(prediction(1, 0))
    assert smooth(prediction(0, 1), scene=1).probability == 1  # after a stream was away
    assert smooth(prediction(0, 1, domain="flowers"), scene=1).probability == 1
    assert smooth(prediction(0, 0, 1, domain="flowers"), scene=1).label == "c"  # learnt anew, with more classes
    with pytest.raises(StreamError, match="at least 1"):
        Smoother(0)


def test_a_frame_is_answered_as_its_picture_is(built, tmp_path):
    image = picture(7, 320, 200)
    Image.fromarray(image[:, :, ::-1]).save(tmp_path / "a.png")
    with Runtime(built[0], backend="reference") as runtime:
        wanted = next(iter(runtime.prepare(str(tmp_path / "a.png"))))
        found = prepared(image, runtime)
        assert found.dtype == np.float32 and found.flags.c_contiguous and np.array_equal(found, wanted)
        seen = Watcher(runtime, "flowers")(reading.Frame(image, 5, time.time(), time.monotonic(), None, 0))
        assert seen.prediction.label == runtime.run(str(tmp_path / "a.png"), domain="flowers")[0].label


def test_latency_counts_from_the_frame_s_coming(built):
    with Runtime(built[0], backend="reference") as runtime:
        for queued in (False, True):
            watcher = Watcher(runtime, "flowers", queued=queued)
            for number in range(3):
                watcher(reading.Frame(picture(number), number, time.time(), time.monotonic() - 2, None, 0))
            figures = watcher.figures
            assert (figures.latency.percentile(50) > 1.9) is not queued
            assert figures.frames == 3 and sum(figures.labels.values()) == 3 and 0 < figures.engine_share < 1
            assert figures.engine.total + figures.prepare.total <= figures.latency.total <= figures.seconds * 3 + 1e-6


def test_percentiles_in_a_fixed_amount_of_memory():
    durations = Durations()
    assert durations.percentile(50) == 0
    seconds = np.random.RandomState(0).lognormal(-4, 1, 5000)
    for one in seconds:
        durations.add(one)
    for percent in (1, 50, 90, 99, 100):
        assert durations.percentile(percent) == pytest.approx(np.percentile(seconds, percent), rel=0.02), percent
    size = len(durations._buckets)
    for odd in (0.0, 1e-9, 1e9):
        durations.add(odd)
    assert len(durations._buckets) == size and durations.count == 5003
    assert durations.percentile(100) > 900 and durations.percentile(0.001) < 2e-5


# -- recording


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_recording_appears_whole(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"an earlier one")
    recorder = Recorder(str(path), 10)
    for number in range(8):
        recorder.add(picture(number), number / 10)
    assert path.read_bytes() == b"an earlier one" and len(os.listdir(tmp_path)) == 2
    assert recorder.finish()
    assert os.listdir(tmp_path) == [name]
    assert [number_of(image) for image in frames_of(path)] == list(range(8))
    assert not recorder.finish()


def test_time_passes_in_a_recording_as_it_did(tmp_path):
    recorder = Recorder(str(tmp_path / "a.avi"), 10)
    times = [0.0, 0.1, 0.5, 0.52, 0.61, 0.63, 0.64, 0.65, 1.0]  # a camera that hesitates, and then hurries
    for number, at in enumerate(times):
        recorder.add(picture(number), 100 + at)
    recorder.add(picture(20), 5000.0)  # nothing for longer than anybody wants to see
    recorder.add(picture(21), 5000.1)
    recorder.add(picture(22), 9.0, scene=1)  # the stream was away
    assert recorder.finish()
    numbers = [number_of(image) for image in frames_of(tmp_path / "a.avi")]
    # Place n shows what was seen at n / 10 s, one place more or less; the gaps are left out.
    assert numbers == [0, 1, 1, 1, 1, 2, 3, 4, 7, 8, 20, 21, 22] and recorder.written == len(numbers)


def test_a_camera_that_comes_back_in_another_size(tmp_path):
    recorder = Recorder(str(tmp_path / "a.avi"), 10)
    recorder.add(picture(1), 0)
    recorder.add(picture(2, 320, 240), 0.1, scene=1)
    recorder.finish()
    assert [image.shape for image in frames_of(tmp_path / "a.avi")] == [(HEIGHT, WIDTH, 3)] * 2


def test_what_cannot_be_recorded(tmp_path, monkeypatch):
    for name, message in (("a.gif", "name it .mp4, .mkv or .avi"), ("a", "name it .mp4")):
        with pytest.raises(StreamError, match=message):
            Recorder(str(tmp_path / name), 10)
    closed = types.SimpleNamespace(isOpened=lambda: False, release=lambda: None)
    monkeypatch.setattr(cv2, "VideoWriter", lambda *_: closed)
    monkeypatch.setattr(cv2, "VideoWriter_fourcc", lambda *_: 0, raising=False)
    with pytest.raises(StreamError, match=r"cannot write .*a.mp4: try a name that ends in .avi"):
        Recorder(str(tmp_path / "a.mp4"), 10).add(picture(0), 0)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    recorder = Recorder(str(tmp_path / "a.avi"), 10)
    for number in range(30):
        recorder.add(picture(number), number / 10)
    full = shutil.disk_usage(tmp_path)._replace(free=recording._SPARE - 1)
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda _: full)
    with pytest.raises(StreamError, match="is full: what was recorded so far is kept"):
        recorder.add(picture(30), 3.0)
    assert recorder.finish() and len(frames_of(tmp_path / "a.avi")) == 30


# -- showing


def test_no_window_without_a_screen(monkeypatch):
    if not opencv.has_windows(cv2):
        with pytest.raises(StreamError, match=r"built without windows: pip uninstall opencv-python-headless"):
            Window("x")
    monkeypatch.setattr(showing, "has_windows", lambda _: True)
    monkeypatch.setattr(showing, "_PROBE", "import os; os.abort()")  # as Qt ends a process that has no screen
    with pytest.raises(StreamError, match="there is no screen here"):
        Window("x")


@pytest.mark.parametrize(
    ("said", "windows"),
    [
        ("  GUI:   NONE\n", False),
        ("  GUI:   QT5\n    QT:   YES (ver 5.15.8 )\n", True),
        ("  GUI: \n    GTK+:    NO\n    VTK support:   NO\n", False),  # OpenCV 4.1
        ("  GUI: \n    GTK+:    YES (ver 2.24)\n", True),
        ("", False),
    ],
)
def test_which_opencv_has_windows(said, windows):
    assert opencv.has_windows(types.SimpleNamespace(getBuildInformation=lambda: said)) is windows


def test_a_window_is_closed_by_a_key_or_its_corner(monkeypatch):
    shown = []
    fake = types.SimpleNamespace(
        WINDOW_NORMAL=0,
        WINDOW_KEEPRATIO=0,
        WINDOW_GUI_NORMAL=16,
        WND_PROP_VISIBLE=4,
        key=-1,
        visible=1.0,
        namedWindow=lambda *_: None,
        resizeWindow=lambda *size: shown.append(size),
        imshow=lambda title, image: shown.append(image),
        waitKey=lambda _: fake.key,
        getWindowProperty=lambda *_: fake.visible,
    )
    monkeypatch.setattr(showing, "load_opencv", lambda: fake)
    monkeypatch.setattr(showing, "has_windows", lambda _: True)
    monkeypatch.setattr(showing, "_PROBE", "")
    window = Window("x")
    image = picture(0)
    assert window.show(image) and window.show(image) and shown[0] == ("x", WIDTH, HEIGHT) and len(shown) == 3
    for key, visible, alive in ((ord("a"), 1.0, True), (ord("q"), 1.0, False), (27, 1.0, False), (-1, 0.0, False)):
        fake.key, fake.visible = key, visible
        assert window.show(image) is alive


def test_nothing_of_opencv_is_loaded_before_it_is_needed(package_root):
    code = "import sys, da3.runtime.streams, da3.runtime.app.stream; print({'cv2', 'PIL'} & set(sys.modules))"
    environment = dict(os.environ, PYTHONPATH=str(package_root))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "set()\n"
