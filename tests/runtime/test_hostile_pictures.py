"""Pictures that say they are huge, arrays that are none, folders that never end."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from hostile import within
from PIL import Image

from da3.runtime.app.annotate import write_annotated
from da3.runtime.errors import ImageError
from da3.runtime.images.decode import decode
from da3.runtime.images.header import MOST_PIXELS, stored_size
from da3.runtime.images.inputs import read_inputs
from da3.runtime.images.npy import NpyFile
from da3.runtime.images.paths import expand, list_labelled
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.images.resize import resize_bilinear_numpy, resize_window
from da3.runtime.records import Prediction

PREP = Preprocessing(64, 0.875, (0.5,) * 3, (0.25,) * 3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_format_says_how_large_it_is(form):
    for size in ((70, 33), (1, 300)):
        for lossless in (False, True) if form == "WEBP" else (False,):
            file = io.BytesIO()
            Image.new("RGB", size, (9, 90, 200)).save(file, form, **({"lossless": True} if lossless else {}))
            assert stored_size(file.getvalue()) == size[::-1]


@pytest.mark.parametrize("data", [b"", b"no picture", png(7, 9)[:15], b"II*\0\xff\xff\xff\xff", b"P6 9", b"GIF89a\1"])
def test_of_what_says_nothing_no_size_is_known(data):
    assert stored_size(data) is None


HUGE = {
    "x.png": png(65000, 65000),
    "x.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(9),
    "x.bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 1 << 20, -(1 << 20)) + bytes(40),
    "x.ppm": b"P6\n# a comment\n999999 999999\n255\n",
    "x.tif": b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHII", 256, 4, 1, 1 << 30) + struct.pack("<HHII", 257, 4, 1, 9),
    "x.webp": b"RIFF\xff\0\0\0WEBPVP8X" + bytes(8) + b"\xff\xff\xff" * 2,
    "x.jpg": b"\xff\xd8" + struct.pack(">HHBHHB", 0xFFC0, 17, 8, 65500, 65500, 3) + bytes(20),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_says_it_is_huge_is_not_decoded(tmp_path, name):
    (tmp_path / name).write_bytes(HUGE[name])
    with within(1), pytest.raises(ImageError, match=name + " has too many pixels"):
        decode(tmp_path / name)


def test_no_filter_of_warnings_is_touched(tmp_path, monkeypatch):
    """They belong to the whole process, in which other threads may be running."""
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    monkeypatch.setattr(warnings, "catch_warnings", None)
    monkeypatch.setattr(warnings, "simplefilter", None)
    before = list(warnings.filters)
    assert decode(tmp_path / "x.png").shape == (64, 64, 3) and warnings.filters == before


@pytest.mark.parametrize("shape", [(1, 65000), (65000, 1), (3, 400000)])
def test_a_line_of_pixels_takes_no_memory(tmp_path, shape):
    path = str(tmp_path / "line.png")
    Image.fromarray(np.full((*shape, 3), 77, np.uint8)).save(path)
    with within(40):
        (image,) = read_inputs([path], PREP)
    assert np.allclose(image.pixels, (77 / 255 - 0.5) / 0.25, atol=0.02)
    answer = Prediction("a", 0, 0.9, np.ones(1), np.zeros(1), 1, 0, (True,), 1.0, "d", ("a",))
    with within(40), pytest.raises(ImageError, match="line.png is too long"):
        write_annotated(path, str(tmp_path / "out.jpg"), answer)


def test_a_narrow_picture_is_drawn_on_within_what_a_jpeg_holds(tmp_path):
    Image.new("RGB", (2, 20000)).save(tmp_path / "x.png")
    answer = Prediction("a", 0, 0.9, np.ones(1), np.zeros(1), 1, 0, (True,), 1.0, "d", ("a",))
    with within(40):
        write_annotated(str(tmp_path / "x.png"), str(tmp_path / "out.jpg"), answer)
    width, height = Image.open(tmp_path / "out.jpg").size
    assert width == 6 and 60000 < height < 60100


@pytest.mark.parametrize(
    "old, new", [((40, 90), (64, 144)), ((300, 200), (96, 64)), ((64, 7), (700, 77)), ((9, 9), (64, 64))]
)
def test_a_window_is_that_of_the_whole(old, new):
    image = np.random.RandomState(3).randint(0, 256, (*old, 3)).astype(np.uint8)
    whole = resize_bilinear_numpy(image, *new)
    for top, left in ((0, 0), (new[0] - 60, new[1] - 60), ((new[0] - 60) // 2, (new[1] - 60) // 2)):
        window = resize_window(image, *new, top, left, 60)
        assert np.abs(window.astype(int) - whole[top : top + 60, left : left + 60]).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16", "CMYK"])
def test_large_pictures_become_arrays_in_bands(tmp_path, monkeypatch, mode):
    pixels = np.random.RandomState(1).randint(0, 256, (37, 50)).astype(np.uint8)
    grey = Image.fromarray(pixels)
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else grey.convert("RGB").convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path, **({"transparency": 3} if mode == "P" else {}))
    whole = decode(path)
    monkeypatch.setattr(sys.modules["da3.runtime.images.decode"], "_BAND", 4 * 50)
    np.testing.assert_array_equal(decode(path), whole)


def test_formats_that_are_no_photos(tmp_path):
    """Pillow starts Ghostscript to load an EPS."""
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ImageError, match="x.jpg is no photo, but a file of the format EPS"):
        decode(tmp_path / "x.jpg")


def test_no_memory_is_an_error_that_names_the_picture(tmp_path, monkeypatch):
    def fail(*words):
        raise MemoryError

    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ImageError, match=r"not enough memory to decode .*x.png"):
        decode(tmp_path / "x.png")
    monkeypatch.undo()
    monkeypatch.setattr(Preprocessing, "normalise", fail)
    with pytest.raises(ImageError, match=r"not enough memory to decode .*x.png"):
        list(read_inputs([str(tmp_path / "x.png")], PREP))


# -- arrays


def npy(header, data=b"", version=1):
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def described(descr="'|u1'", order="False", shape="(1, 2, 2, 3)"):
    return "{'descr': %s, 'fortran_order': %s, 'shape': %s, }\n" % (descr, order, shape)  # noqa: UP031


NO_ARRAYS = {
    "an archive": (b"PK\3\4" + bytes(30), "archive of arrays"),
    "text": (b"no array at all", "it is no .npy file"),
    "empty": (b"", "it is no .npy file"),
    "version": (npy(described(), bytes(12), 9), "another version"),
    "objects": (npy(described("'|O'"), bytes(12)), "it holds '|O', not uint8"),
    "a record": (npy(described("[('a', '<f4')]"), bytes(12)), "no array of numbers"),
    "text numbers": (npy(described("'<U9'"), bytes(99)), "it holds '<U9'"),
    "code": (npy("__import__('os').system('true')"), "no array of numbers, but"),
    "nested": (npy("(" * 4000), "no array of numbers"),
    "another key": (npy("{'descr': '|u1', 'fortran_order': False, 'form': (1,), }"), "no array of numbers"),
    "a key twice": (npy("{'descr': '|u1', 'descr': '|u1', 'shape': (1,), }"), "no array of numbers"),
    "huge header": (npy(described() + " " * 60000, bytes(12)), "its header of 6"),
    "long header": (npy(described(), bytes(12), 2)[:8] + b"\xff\xff\xff\xff", "its header of 4294967295"),
    "truncated": (npy(described(shape="(9, 2, 2, 3)"), bytes(12)), "it is truncated"),
    "overflow": (npy(described(shape="(9999999999999999999999999, 2, 2, 3)"), bytes(12)), "no shape of images"),
    "more than memory": (npy(described("'<f8'", shape="(99999999, 999999, 9999, 3)"), bytes(12)), "truncated"),
    "dimensions": (npy(described(shape="(%s)" % ("1, " * 99)), bytes(12)), "no shape of images"),
    "no images": (npy(described(shape="(0, 2, 2, 3)")), "expected images of shape"),
    "a number": (npy(described(shape="()"), bytes(12)), "expected images of shape"),
    "no pixels": (npy(described(shape="(999999999999999, 0, 2, 3)")), "expected a uint8 image"),
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_what_is_no_array_of_images(tmp_path, name):
    data, message = NO_ARRAYS[name]
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with within(1), pytest.raises(ImageError, match=message) as caught:
        list(read_inputs([str(path)], PREP))
    assert "x.npy" in str(caught.value)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["|u1", "<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (5, 6, 3), (1,), (3, 0, 2)])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, dtype, shape, order):
    array = np.asarray(np.random.RandomState(0).randint(0, 256, shape).astype(dtype), order=order)
    path = str(tmp_path / "x.npy")
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(path, "wb") as file:
            np.lib.format.write_array(file, array, version)
        found = NpyFile(path)
        np.testing.assert_array_equal(found.whole(), array)
        np.testing.assert_array_equal(found[1:3], array[1:3])
        assert (found.shape, found.ndim, found.dtype) == (array.shape, array.ndim, array.dtype.newbyteorder("="))


def test_of_a_large_array_one_image_is_in_memory(tmp_path):
    """A sparse file of 12 GB, of 4,000 pictures of a megapixel each."""
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        file.write(npy(described(shape="(4000, 1000, 1000, 3)")))
        file.truncate(file.tell() + 12 * 10**9)
    with within(40):
        first = next(read_inputs([str(path)], PREP))
    assert first.name.endswith("x.npy[0]") and first.pixels.shape == (3, 64, 64)
    with open(path, "r+b") as file:
        file.write(npy(described(shape="(1, 100000, 40000, 3)")))
    with within(1), pytest.raises(ImageError, match="100000 x 40000 pixels have too many"):
        list(read_inputs([str(path)], PREP))
    assert MOST_PIXELS < 10**8


# -- files and folders


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(ImageError, match=f"cannot read .*{name}: not a regular file"):
            decode(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "x.npy")
        with pytest.raises(ImageError, match=r"x.npy: not a regular file"):
            NpyFile(str(tmp_path / "x.npy"))


def test_a_file_of_any_size_is_not_read(tmp_path):
    with open(tmp_path / "x.jpg", "wb") as file:
        file.truncate(1 << 36)
    with within(1), pytest.raises(ImageError, match="it has 64.0 GiB, more than the 256.0 MiB allowed"):
        decode(tmp_path / "x.jpg")


def test_folders_that_link_to_each_other(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
        (tmp_path / name / "all").symlink_to(tmp_path)
        (tmp_path / name / "self").symlink_to(tmp_path / name / "self")
    os.mkfifo(tmp_path / "a" / "2.jpg")
    (tmp_path / "a" / "3.jpg").mkdir()
    (tmp_path / "a" / "3.jpg" / "4.jpg").write_bytes(b"")
    (tmp_path / "a" / "5.jpg").symlink_to(tmp_path / "b" / "1.jpg")
    found = [os.path.relpath(path, tmp_path) for path in expand([tmp_path])]
    assert found == ["a/1.jpg", "a/3.jpg/4.jpg", "a/5.jpg", "b/1.jpg"]
    assert [label for _, label in list_labelled(tmp_path / "a", ["3.jpg", "all"])[1]][:1] == [0]
    with pytest.raises(ImageError, match="no pictures match"):
        expand([str(tmp_path / "a" / "2*.jpg")])


def test_paths_on_stdin_may_be_any_bytes(tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.jpg")
    with open(odd, "wb"):
        pass
    code = "from da3.runtime.images.paths import expand; print(ascii(expand(['-'])))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], input=odd + b"\n", capture_output=True, check=True, timeout=60
    )
    assert r"\udcff.jpg" in done.stdout.decode()
    with pytest.raises(ImageError, match="no such file or folder"):
        expand(["x\0.jpg"])
    with pytest.raises(ImageError, match="no such file or folder"):
        expand(["-"], io.StringIO("x\0.jpg\n"))


def test_nobody_waits_for_a_pipe(tmp_path):
    """Opening one waits for its writer, unless that is asked not to be."""
    os.mkfifo(tmp_path / "x.png")
    errors = []

    def read():
        try:
            decode(tmp_path / "x.png")
        except ImageError as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    started = time.monotonic()
    thread.start()
    thread.join(20)
    assert errors and time.monotonic() - started < 20
