"""`run-engine` on cameras and videos, as users run it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'da3[video]'")

from pythons import works  # noqa: E402
from videos import HEIGHT, WIDTH, frames_of, jpegs, number_of, write_video  # noqa: E402

from da3.runtime import Runtime  # noqa: E402
from da3.runtime.app import stream, stream_status  # noqa: E402
from da3.runtime.app.commands import main  # noqa: E402
from da3.runtime.streams import reading  # noqa: E402
from da3.toolchain.bench.loopback_camera import LoopbackCamera  # noqa: E402

SCALE = 2  # pictures narrower than 320 pixels are enlarged, so that words fit


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 24)


@pytest.fixture
def camera():
    with LoopbackCamera(jpegs(64), fps=50) as playing:
        yield playing


@pytest.fixture
def run(built, capsys, monkeypatch):
    monkeypatch.setattr(stream_status, "_LINE_EVERY_S", 1e9)  # however slow this machine is

    def call(*words):
        options = ["-b", str(built[0]), "-d", "flowers", "--backend", "reference"]
        code = main(["run-engine", *map(str, words), *options], program="da3")
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture
def start(built, package_root):
    """A function that starts the command in a process of its own."""

    def begin(*words, python=sys.executable, path=""):
        options = ["-b", built[0], "-d", "flowers", "--backend", "reference"]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(package_root)] + ([str(path)] if path else [])))
        command = [python, "-m", "da3.runtime", *map(str, words), *map(str, options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=environment, **pipes)
        started.append(process)
        return process

    started = []
    yield begin
    for process in started:
        process.kill()
        process.wait()


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for(path, lines, process):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate())


def test_a_video(run, video, tmp_path, built):
    code, out, err = run(video, "--jsonl", tmp_path / "x" / "a.jsonl", "--save", tmp_path / "y" / "a.mp4", "--top-k", 2)
    assert (code, err) == (0, "")
    assert re.search(r"^wrote .*a.mp4: 24 frames\n24 frames of .*a.mp4 in [\d.]+ s, [\d.]+ a second\n", out)
    assert "p50 " in out and "p99 " in out and "engine " in out and "block FLOPs skipped" in out
    assert "dropped" not in out and "answers: flowers_" in out
    rows = rows_of(tmp_path / "x" / "a.jsonl")
    assert [row["frame"] for row in rows] == list(range(24)) and rows[3]["position"] == 0.1
    with Runtime(built[0], backend="reference") as runtime:
        for row, image in zip(rows, frames_of(video), strict=True):
            (wanted,) = runtime.run(image[:, :, ::-1], domain="flowers")
            assert row["label"] == wanted.label and row["probability"] == pytest.approx(wanted.probability, abs=1e-5)
            assert row["blocks_run"] == wanted.blocks_run and row["exit"] is None and row["ms"] >= row["engine_ms"] > 0
            assert row["top_k"][0]["label"] == row["label"] and len(row["top_k"]) == 2
    drawn = frames_of(tmp_path / "y" / "a.mp4")
    band = drawn[0].shape[0] - SCALE * HEIGHT
    assert len(drawn) == 24 and drawn[0].shape[1] == SCALE * WIDTH and band > 20
    assert [number_of(image[band::SCALE, ::SCALE]) for image in drawn] == list(range(24))
    assert (drawn[0][:band] > 180).all(axis=2).sum() > 100  # words, in white
    blue, _, red = drawn[0][:band, 1].mean(axis=0)
    assert blue > red + 40 if rows[0]["probability"] >= 0.6 else red > blue + 100  # green, or amber


def test_json_lines_and_nothing_else(run, video):
    code, out, err = run(video, "--jsonl", "-", "--every", 5, "--frames", 4)
    assert code == 0 and [json.loads(line)["frame"] for line in out.splitlines()] == [0, 5, 10, 15]
    assert "4 frames of " in err


def test_json_lines_are_appended(run, video, tmp_path):
    for _ in range(2):
        assert run(video, "--jsonl", tmp_path / "a.jsonl", "--frames", 3)[0] == 0
    assert [row["frame"] for row in rows_of(tmp_path / "a.jsonl")] == [0, 1, 2, 0, 1, 2]


def test_smoothed(run, video, tmp_path):
    for name, smooth in (("a", 1), ("b", 6)):
        run(video, "--jsonl", tmp_path / name, "--smooth", smooth, "--top-k", 9)
    plain, smooth = (
        [{t["label"]: t["probability"] for t in row["top_k"]} for row in rows_of(tmp_path / n)] for n in "ab"
    )
    for number, found in enumerate(smooth):
        last = plain[max(0, number - 5) : number + 1]
        for label, probability in found.items():
            assert probability == pytest.approx(sum(row[label] for row in last) / len(last), abs=1e-5)


def test_a_camera(run, camera, tmp_path):
    code, out, err = run(camera.url, "--frames", 20, "--jsonl", tmp_path / "a.jsonl", "--save", tmp_path / "a.avi")
    assert (code, err) == (0, "") and f"20 frames of {camera.url} in " in out
    rows = rows_of(tmp_path / "a.jsonl")
    times = [row["time"] for row in rows]
    assert times == sorted(times) and abs(times[-1] - time.time()) < 60 and "position" not in rows[0]
    seconds = times[-1] - times[0]
    assert len(frames_of(tmp_path / "a.avi")) == pytest.approx(seconds * 50 + 1, abs=4)


def test_a_camera_that_drops(start, camera, tmp_path):
    process = start(camera.url, "--jsonl", tmp_path / "a.jsonl", "--save", tmp_path / "a.avi")
    wait_for(tmp_path / "a.jsonl", 5, process)
    camera.drop()
    wait_for(tmp_path / "a.jsonl", len(rows_of(tmp_path / "a.jsonl")) + 10, process)
    assert [name[:9] for name in os.listdir(tmp_path) if name.endswith("a.avi")] == [".writing-"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and camera.played == 2, err
    dropped, back, stopping = (line for line in err.splitlines() if " frame " not in line)
    assert re.search(r"^\d\d:\d\d:\d\d rtsp.*: it dropped after \d+ frames; trying again in 0.5 s$", dropped)
    assert back.endswith("it is back") and stopping == "stopping; Ctrl-C again to stop at once"
    assert "opened again 1 times" in out and sorted(os.listdir(tmp_path)) == ["a.avi", "a.jsonl"]
    assert len(frames_of(tmp_path / "a.avi")) >= 15


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_no_failure(start, camera, tmp_path, number):
    process = start(camera.url, "--jsonl", "-")
    assert json.loads(process.stdout.readline())["frame"] >= 0
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "frames of rtsp://" in err and "Traceback" not in err
    assert all(json.loads(line) for line in out.splitlines())


def test_a_camera_that_stays_away(run, camera, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_FIRST_WAIT", 0.02)
    # It loses its power while the first frame is answered.
    monkeypatch.setattr(stream.JsonLines, "__call__", lambda *_: camera.close() or True)
    code, out, err = run(camera.url, "--reconnect", 2, "--jsonl", tmp_path / "a.jsonl", "--save", tmp_path / "a.avi")
    *news, error = err.splitlines()
    assert code == 1 and re.fullmatch(
        r"error: cannot open rtsp://.*: Connection refused, tried 2 times since it .*", error
    )
    assert ["it dropped after" in news[0], "it is still away" in news[1]] == [True, True] and len(news) == 2
    assert "frames of rtsp://" in out and frames_of(tmp_path / "a.avi")


def test_what_was_seen_is_kept_when_a_video_breaks_off(run, tmp_path):
    whole = write_video(tmp_path / "whole.avi", 30).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    code, out, err = run(tmp_path / "cut.avi", "--save", tmp_path / "a.avi")
    assert code == 1 and re.fullmatch(
        r"error: .*cut.avi ends after \d+ of its 30 frames: it is damaged, or cut off\n", err
    )
    frames = int(re.search(r"ends after (\d+)", err).group(1))
    assert f"{frames} frames of " in out and len(frames_of(tmp_path / "a.avi")) == frames


def test_unsure_frames_are_kept_to_be_labelled(run, tmp_path):
    source = write_video(tmp_path / "b.avi", 50, fps=20)
    run(source, "--jsonl", tmp_path / "a.jsonl")
    rows = rows_of(tmp_path / "a.jsonl")
    code, out, _ = run(source, "--unsure-below", 1, "--to", tmp_path / "next")
    kept = sorted((tmp_path / "next").glob("*/*.jpg"), key=lambda path: int(path.stem.split("-")[1]))
    assert code == 0 and f"50 frames below 1, 3 kept in {tmp_path}/next: move those" in out
    # One a second, each under the class that was guessed.
    assert [(path.parent.name, path.name) for path in kept] == [(rows[n]["label"], f"b-{n}.jpg") for n in (0, 20, 40)]
    assert [number_of(cv2.imread(str(path))) for path in kept] == [0, 20, 40]
    kept[0].write_bytes(b"labelled")
    assert run(source, "--unsure-below", 1, "--to", tmp_path / "next")[0] == 0 and kept[0].read_bytes() == b"labelled"
    code, out, _ = run(source, "--unsure-below", 0, "--to", tmp_path / "none")
    assert code == 0 and "0 frames below 0, 0 kept" in out and os.listdir(tmp_path / "none") == []


def test_unsure_frames_of_a_camera_are_named_by_the_time(run, camera, tmp_path):
    code, _, _ = run(camera.url, "--frames", 5, "--unsure-below", 1, "--to", tmp_path / "next")
    (kept,) = (tmp_path / "next").glob("*/*.jpg")
    assert code == 0 and re.fullmatch(r"\d{8}-\d{6}-\d+", kept.stem)


def test_what_does_not_go_together(run, video, tmp_path):
    for words, message in (
        (["0"], "0 names two cameras: say /dev/video0"),
        ([video, video], "one stream at a time"),
        ([video, "a.jpg"], "one stream at a time"),
        ([video, "--json"], "--json is for photos, and .*a.mp4 is a stream: use --jsonl -"),
        ([video, "--batch-size", 2], "--batch-size is for photos"),
        ([video, "--save-pictures", "x"], "use --save VIDEO.mp4"),
        ([video, "--unsure-below", 0.6], "--unsure-below and --to go together"),
        ([video, "--save", tmp_path], "--save .* is a folder"),
        ([video, "--save", tmp_path / "a.gif"], "name it .mp4, .mkv or .avi"),
        ([video, "--jsonl", tmp_path], "--jsonl .* is a folder"),
        (["a.jpg", "--every", 2], "--every is for a camera or a video, and none is named"),
        (["a.jpg", "--reconnect", 0], "--reconnect is for a camera or a video"),
        (["a.jpg", "--show"], "--show is for a camera or a video"),
        ([tmp_path / "gone.mp4"], "no such video: "),
    ):
        code, out, err = run(*words)
        assert (code, out) == (1, "") and re.search(message, err) and err.count("\n") == 1, err
    assert os.listdir(tmp_path) == []


def test_without_opencv(run, video, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, out, err = run(video)
    assert (code, out, err) == (1, "", "error: streams need OpenCV: pip install 'da3[video]'\n")


def test_a_full_disk_ends_the_lines(run, video, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream, "open", lambda *_, **__: Full(), raising=False)
    code, _, err = run(video, "--jsonl", tmp_path / "a.jsonl")
    assert code == 1 and err.endswith("a.jsonl: No space left on device\n") and "--jsonl: cannot write" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_has_lines_and_a_terminal_one(run, video, monkeypatch):
    monkeypatch.setattr(stream_status, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(stream_status, "_REDRAWN_EVERY_S", 0.0)
    lines = run(video)[2].splitlines()
    assert len(lines) == 24
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d frame 23: flowers_\d [\d.]+ %, \d of 3 blocks, [\d.]+ fps, [\d.]+ ms \(p99 [\d.]+\)", lines[-1]
    )
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "50")
    run(video)
    drawn = terminal.getvalue().split("\r")
    assert "\n" not in terminal.getvalue() and drawn[-1] == "" and drawn[-2].strip() == ""
    assert len(drawn) > 24 and max(map(len, drawn)) <= 49


@pytest.mark.slow
def test_on_python_36_with_the_opencv_of_jetpack_4(start, python36, opencv36, camera, video, tmp_path):
    for source in (camera.url, video):
        words = (source, "--frames", 10, "--smooth", 3, "--save", tmp_path / "a.mp4", "--jsonl", tmp_path / "a.jsonl")
        process = start(*words, python=python36, path=opencv36)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "10 frames of " in out, err
        assert len(frames_of(tmp_path / "a.mp4")) >= 9
    assert len(rows_of(tmp_path / "a.jsonl")) == 20


THROUGH_GSTREAMER = """
import sys
from da3.runtime.streams import FrameReader, opening, parse_address
opening.has_ffmpeg = lambda _: False  # which would be asked first here
numbers, told = [], False
with FrameReader(parse_address(sys.argv[1])) as reader:
    for frame in reader:
        numbers.append(frame.number)
        if len(numbers) == 20:
            print(reader.library, flush=True)
        if frame.scene:
            break
print(numbers == sorted(set(numbers)), frame.scene)
"""


@pytest.fixture(scope="module")
def systems_python():
    """The system's own Python, whose OpenCV has GStreamer, as on a Jetson."""
    built_with = "import numpy, cv2; assert 'YES' in cv2.getBuildInformation().split('GStreamer:')[1].split('\\n')[0]"
    if not works("/usr/bin/python3", built_with):
        pytest.skip("no system's OpenCV with GStreamer: apt-get install python3-opencv gstreamer1.0-plugins-good")
    return "/usr/bin/python3"


def through_gstreamer(python, url, package_root):
    environment = dict(os.environ, PYTHONPATH=str(package_root))
    words = [python, "-c", THROUGH_GSTREAMER, url]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_gstreamer_plays_a_camera(package_root, camera, systems_python):
    process = through_gstreamer(systems_python, camera.url, package_root)
    try:
        assert process.stdout.readline() == "GSTREAMER\n"
        camera.drop()
        assert process.stdout.read() == "True 1\n" and process.wait(60) == 0
    finally:
        process.kill()


@pytest.mark.slow
def test_h264_with_sound_from_another_s_server(package_root, systems_python, start, tmp_path):
    needs = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    needs += "Gst.init(None); assert all(Gst.ElementFactory.find(e) for e in ('x264enc', 'avdec_h264', 'rtspsrc'))"
    if not works(systems_python, needs):
        pytest.skip(
            "no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly gstreamer1.0-libav"
        )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    playing = subprocess.Popen([systems_python, str(Path(__file__).with_name("gstreamer_camera.py"))], **pipes)
    try:
        url = playing.stdout.readline().strip()
        words = ("--frames", 40, "--jsonl", tmp_path / "a.jsonl", "--save", tmp_path / "a.mp4")
        process = start(url, *words)  # by this Python's OpenCV, with FFmpeg
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and f"40 frames of {url}" in out, err
        drawn = frames_of(tmp_path / "a.mp4")
        assert len(drawn) >= 35 and drawn[0].shape[1] == 320 and len(rows_of(tmp_path / "a.jsonl")) == 40
        # The white ball moves, and nothing is torn: all but a little of each frame is black.
        pictures = [image[-240:].max(axis=2) > 128 for image in drawn]
        assert all(0.001 < picture.mean() < 0.1 for picture in pictures) and (pictures[5] != pictures[30]).any()
        process = through_gstreamer(systems_python, url, package_root)
        assert process.stdout.readline() == "GSTREAMER\n"
        process.kill()
    finally:
        playing.kill()
        playing.wait()


@pytest.mark.slow
def test_memory_does_not_grow(start, tmp_path):
    def resident(pid):
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc here")
    with LoopbackCamera(jpegs(64), fps=200) as camera:
        process = start(camera.url, "--jsonl", tmp_path / "a.jsonl", "--smooth", 5)
        wait_for(tmp_path / "a.jsonl", 500, process)
        before = resident(process.pid)
        wait_for(tmp_path / "a.jsonl", 4000, process)
        grown = resident(process.pid) - before
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) and process.returncode == 0
    assert grown < 4 * 2**20
