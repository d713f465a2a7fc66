"""Decoding any picture people have, and the same numbers with and without Pillow."""

import json
import struct
import sys
import types

import numpy as np
import PIL.ImageOps
import pytest
from PIL import Image
from synthetic_bundle import PREPROCESSING

from da3.runtime import Runtime
from da3.runtime.errors import ImageError
from da3.runtime.images.decode import decode
from da3.runtime.images.inputs import batches, in_batches, read_inputs
from da3.runtime.images.jpeg import jpeg_size
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.images.resize import resize_bilinear, resize_bilinear_numpy

PREP = Preprocessing(64, 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture(height, width, seed=0):
    """Smooth shapes and noise: what resizing must get right."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = 127 + 100 * np.sin(x / 7.0)[..., None] * np.cos(y / 5.0)[..., None] * np.array([1, -1, 0.5])
    return np.clip(base + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "old, new",
    [((100, 80), (64, 51)), ((33, 47), (64, 91)), ((300, 500), (20, 33)), ((7, 7), (7, 3)), ((1, 1), (5, 4))],
)
def test_numpy_resize_agrees_with_pillow(old, new):
    image = picture(*old)
    ours, pillow = resize_bilinear_numpy(image, *new), resize_bilinear(image, *new)
    assert ours.shape == pillow.shape == (*new, 3) and ours.dtype == pillow.dtype == np.uint8
    difference = ours.astype(int) - pillow
    assert np.abs(difference).max() <= 1 and np.abs(difference.mean()) < 0.25


@pytest.mark.parametrize("shape", [(64, 64), (100, 80), (80, 100), (30, 300), (1, 1), (73, 73)])
def test_resize_and_crop(shape):
    image = picture(*shape)
    out = PREP.resize_and_crop(image)
    assert out.shape == (64, 64, 3) and out.dtype == np.uint8 and out.flags.c_contiguous
    scale = 73 / min(shape)  # round(64 / 0.875) = 73
    size = [int(n * scale + 0.5) for n in shape]
    whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = (size[0] - 64) // 2, (size[1] - 64) // 2
    np.testing.assert_array_equal(out, whole[top : top + 64, left : left + 64])


def test_normalise():
    image = picture(64, 64)
    out = PREP.normalise(image[None])
    assert out.shape == (1, 3, 64, 64) and out.dtype == np.float32 and out.flags.c_contiguous
    expected = (image / 255.0 - np.array(PREP.mean)) / np.array(PREP.std)
    np.testing.assert_allclose(out[0], expected.transpose(2, 0, 1), atol=1e-6)
    for wrong in (image, image[None].astype(np.float32), image[None, :32]):
        with pytest.raises(ImageError, match="expected uint8 images of shape"):
            PREP.normalise(wrong)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_not_a_picture(wrong):
    with pytest.raises(ImageError, match=r"expected a uint8 image of shape \(H, W, 3\)"):
        PREP.resize_and_crop(wrong)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_modes_become_rgb(tmp_path, mode):
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(np.stack([grey] * 3, 2)).convert(mode).save(path)
    out = decode(path)
    assert out.shape == (32, 32, 3) and out.dtype == np.uint8
    if mode not in ("P", "1"):
        assert np.abs(out.astype(int) - grey[..., None]).max() <= 1


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(picture(16, 16)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes([0] * 10 + [255] * 246))
    assert decode(tmp_path / "x.png").shape == (16, 16, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "x.jpg", exif=exif, quality=95)
    flips = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    expected = flips[orientation](image)
    out = decode(tmp_path / "x.jpg")
    assert out.shape == expected.shape
    assert np.abs(out.astype(int) - expected).max() < 16


def test_draft_never_goes_below_what_is_asked(tmp_path):
    Image.fromarray(picture(1200, 1600)).save(tmp_path / "x.jpg")
    assert decode(tmp_path / "x.jpg").shape == (1200, 1600, 3)
    for wanted in (100, 150, 151, 600, 1199, 5000):
        assert min(decode(tmp_path / "x.jpg", at_least=wanted).shape[:2]) >= min(wanted, 1200)
    assert decode(tmp_path / "x.jpg", at_least=150).shape == (150, 200, 3)


def test_load_of_a_large_photo_is_close_to_the_full_way(tmp_path):
    smooth = Image.fromarray(picture(90, 120)).resize((1600, 1200), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.jpg", quality=95)
    fast = PREP.load(tmp_path / "x.jpg").astype(int)
    full = PREP.resize_and_crop(decode(tmp_path / "x.jpg")).astype(int)
    assert np.abs(fast - full).mean() < 1.5 and np.abs(fast - full).max() < 16


def damaged(tmp_path):
    good = tmp_path / "good.jpg"
    Image.fromarray(picture(200, 200)).save(good)
    Image.fromarray(picture(200, 200)).save(tmp_path / "good.png")
    files = {
        "empty.jpg": b"",
        "text.jpg": b"this is no picture\n" * 20,
        "cut.jpg": good.read_bytes()[: len(good.read_bytes()) // 2],
        "cut.png": (tmp_path / "good.png").read_bytes()[:5000],
        "head.jpg": good.read_bytes()[:20],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return sorted(files)


def test_damaged_files_are_named(tmp_path):
    for name in damaged(tmp_path):
        with pytest.raises(ImageError, match=name):
            decode(tmp_path / name)
    with pytest.raises(ImageError, match=r"cannot read .*gone.jpg: No such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="cannot read"):
        decode(tmp_path)


def test_a_decompression_bomb(tmp_path, monkeypatch):
    Image.fromarray(picture(64, 64)).save(tmp_path / "bomb.png")
    for limit in (3000, 100):  # a warning of Pillow's, then an error of its
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=r"bomb.png has too many pixels"):
            decode(tmp_path / "bomb.png")


@pytest.fixture
def without_pillow(monkeypatch):
    """As on a board where Pillow is not installed."""
    for name in [n for n in sys.modules if n == "PIL" or n.startswith("PIL.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)


def test_without_any_image_library(tmp_path, monkeypatch, without_pillow):
    (tmp_path / "x.jpg").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImageError, match="without an image library: pip install 'pillow>=6'"):
        decode(tmp_path / "x.jpg")


def test_a_pillow_that_cannot_turn_photos_upright_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.delattr(PIL.ImageOps, "exif_transpose")
    monkeypatch.setitem(sys.modules, "cv2", None)
    Image.fromarray(picture(8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="without an image library: pip install 'pillow>=6'"):
        decode(tmp_path / "x.png")


class FailsToLoad:
    """An OpenCV that is installed, and whose library does not load."""

    def __init__(self, reason):
        self.reason = reason

    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError(self.reason)


@pytest.mark.parametrize(
    "reason, words",
    [
        (
            "/usr/lib/libgomp.so.1: cannot allocate memory in static TLS block",
            r"OpenCV does not load \(/usr/lib/.*TLS block\): start with LD_PRELOAD=/usr/lib/libgomp.so.1 python3",
        ),
        (
            "libGL.so.1: cannot open shared object file",
            r"OpenCV does not load \(libGL.*file\): pip install 'pillow>=6'",
        ),
    ],
)
def test_an_opencv_that_does_not_load(tmp_path, monkeypatch, without_pillow, reason, words):
    (tmp_path / "x.jpg").write_bytes(b"x")
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [FailsToLoad(reason), *sys.meta_path])
    with pytest.raises(ImageError, match=words):
        decode(tmp_path / "x.jpg")


PNG_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 80, 60)


@pytest.fixture
def opencv(monkeypatch, without_pillow):
    """A double of OpenCV that gives BGR, and None for what it cannot read. seen: the flags that it was called with."""
    cv2 = types.ModuleType("cv2")
    cv2.IMREAD_COLOR, cv2.seen, cv2.image = 1, [], picture(90, 60)
    for divisor, flag in ((2, 17), (4, 33), (8, 65)):  # their values in imgcodecs.hpp
        setattr(cv2, f"IMREAD_REDUCED_COLOR_{divisor}", flag)

    def imread(path, flags):
        cv2.seen.append(flags)
        return cv2.image[:, :, ::-1] if path.endswith(("good.jpg", ".png")) else None

    cv2.imread = imread
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    return cv2


def test_opencv_decodes_no_more_of_a_jpeg_than_is_asked_for(tmp_path, opencv):
    (tmp_path / "good.jpg").write_bytes(b"\xff\xd8" + segment(0xC0, (8, 1200, 1600)) + b"\xff\xd9")
    (tmp_path / "x.png").write_bytes(PNG_HEADER)
    for at_least, flag in ((150, 65), (151, 33), (300, 33), (301, 17), (600, 17), (601, 1), (5000, 1), (None, 1)):
        decode(tmp_path / "good.jpg", at_least)
        decode(tmp_path / "x.png", at_least)  # OpenCV would leave pixels of it out
        assert opencv.seen[-2:] == [flag, 1], at_least


def test_what_opencv_raises_is_an_unreadable_picture(tmp_path, opencv, monkeypatch):
    (tmp_path / "x.png").write_bytes(PNG_HEADER)
    opencv.error = type("error", (Exception,), {})
    for reason, words in (
        (
            "OpenCV(4.1.1) loadsave.cpp:75: error: (-215) pixels <= CV_IO_MAX_IMAGE_PIXELS",
            "too many pixels",
        ),
        ("OpenCV(4.1.1) grfmt.cpp:1: error: (-2) no luck\n", r"is not a readable picture: OpenCV\(4.1.1\) .* no luck$"),
    ):

        def imread(path, flags, reason=reason):
            raise opencv.error(reason)

        opencv.imread = imread
        with pytest.raises(ImageError, match=words):
            decode(tmp_path / "x.png")


def segment(marker, frame=None, content=b""):
    """A segment of a JPEG; frame: bits, height and width."""
    if frame is not None:
        content = struct.pack(">BHH", *frame) + b"\x03" + bytes(9)
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


FRAME = (8, 1200, 1600)


@pytest.mark.parametrize(
    "data, size",
    [
        (segment(0xC0, FRAME), (1200, 1600)),
        (segment(0xC2, FRAME), (1200, 1600)),  # progressive
        (segment(0xE1, content=b"Exif" + b"\xff\xd8" + segment(0xC0, (8, 9, 9))) + segment(0xC0, FRAME), (1200, 1600)),
        (segment(0xC4, content=bytes(20)) + b"\xff\xff" + segment(0xC1, FRAME), (1200, 1600)),
        (b"\xff\x01\xff\xd0" + segment(0xCF, FRAME), (1200, 1600)),
        (segment(0xC0, (8, 0, 1600)), None),  # its height comes later
        (segment(0xC0, FRAME)[:8], None),
        (segment(0xDB, content=bytes(64)), None),
        (b"no marker" * 3, None),
        (b"", None),
    ],
    ids=[
        "baseline",
        "progressive",
        "thumbnail",
        "filling",
        "alone",
        "no height",
        "cut",
        "no frame",
        "no marker",
        "empty",
    ],
)
def test_how_large_a_jpeg_is(data, size):
    assert jpeg_size(b"\xff\xd8" + data) == size
    assert jpeg_size(b"\x89PNG" + data) is None


def test_pillow_agrees_how_large_a_jpeg_is(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 3000
    for index, options in enumerate(({}, {"progressive": True}, {"exif": exif}, {"comment": b"\xff\xc0" * 20})):
        Image.fromarray(picture(70, 90)).save(tmp_path / f"{index}.jpg", **options)
        assert jpeg_size((tmp_path / f"{index}.jpg").read_bytes()) == (70, 90)


def test_opencv_is_the_second_choice(tmp_path, opencv):
    image = opencv.image
    header = b"\xff\xd8" + segment(0xC0, (8, 90, 60))
    (tmp_path / "good.jpg").write_bytes(header + b"\xff\xd9")
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    (tmp_path / "cut.good.jpg").write_bytes(header + b"............")
    np.testing.assert_array_equal(decode(tmp_path / "good.jpg"), image)
    np.testing.assert_array_equal(PREP.load(tmp_path / "good.jpg"), PREP.resize_and_crop(image))
    with pytest.raises(ImageError, match=r"text.jpg is not a readable picture"):
        decode(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"cut.good.jpg is not a readable picture: it is truncated"):
        decode(tmp_path / "cut.good.jpg")


LOAD = """
import json, sys
sys.modules["PIL"] = None
sys.path.append(sys.argv[1])
import numpy as np
from da3.runtime.images.decode import decode
from da3.runtime.images.preprocess import Preprocessing
prep = Preprocessing(64, 0.875, (0.5,) * 3, (0.5,) * 3)
np.save(sys.argv[2], np.stack([prep.load(path) for path in sys.argv[3:]]))
print(json.dumps([decode(path, 2 * prep.side).shape[:2] for path in sys.argv[3:]]))
"""


@pytest.mark.slow
def test_opencv_of_jetpack_4_gives_what_pillow_gives(tmp_path, call, python36, opencv36):
    """On Python 3.6, and numpy 1.13 where this test had to install one. Stated in docs/jetson.md."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(picture(300, 400)).resize((1600, 1200), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "whole.jpg", quality=95)
    photo.save(tmp_path / "turned.jpg", exif=exif, quality=90, progressive=True)
    photo.save(tmp_path / "large.png")
    Image.fromarray(picture(40, 30)).save(tmp_path / "small.png")
    files = sorted(tmp_path.glob("*.*g"))
    expected = [PREP.load(path) for path in files]
    Image.new("1", (9500, 9500)).save(tmp_path / "bomb.png")
    done = call("-c", LOAD, opencv36, tmp_path / "found.npy", *files, python=python36)
    bomb = call("-c", LOAD, opencv36, tmp_path / "bomb.npy", tmp_path / "bomb.png", python=python36)
    assert bomb.returncode == 1 and "bomb.png has too many pixels" in bomb.stderr.splitlines()[-1]
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[1200, 1600], [40, 30], [200, 150], [150, 200]]  # JPEGs by their own scaling
    for found, image in zip(np.load(tmp_path / "found.npy"), expected, strict=True):
        difference = np.abs(found.astype(int) - image)
        assert difference.max() <= 2 and difference.mean() < 0.5


def test_real_opencv_agrees(tmp_path, request):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(90, 60)).save(tmp_path / "x.png")
    Image.fromarray(picture(90, 60)).save(tmp_path / "x.jpg", exif=exif, quality=95)
    expected = {name: decode(tmp_path / name) for name in ("x.png", "x.jpg")}
    files = damaged(tmp_path)
    request.getfixturevalue("without_pillow")
    for name, image in expected.items():
        assert np.abs(decode(tmp_path / name).astype(int) - image).max() <= 4
    for name in files:
        with pytest.raises(ImageError, match=name):
            decode(tmp_path / name)


def test_paths_through_the_engine(built, tmp_path):
    for i in range(3):
        Image.fromarray(picture(40, 50, seed=i)).save(tmp_path / f"{i}.png")
    prep = Preprocessing(PREPROCESSING["size"], 0.875, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    x = prep.normalise(np.stack([prep.load(tmp_path / f"{i}.png") for i in range(3)]))
    with Runtime(built[0]) as runtime:
        assert runtime.preprocessing == prep
        expected = runtime.run_batch(x, "flowers").logits
        for paths in (tmp_path, [tmp_path / f"{i}.png" for i in range(3)], f"{tmp_path}/*.png"):
            found = [p.logits for p in runtime.run(paths, "flowers", batch_size=2)]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_arrays_in_files_through_the_engine(built, tmp_path):
    """A .npy file is what the array in it is, alone, in a list and beside pictures."""
    pixels = np.stack([picture(40, 50, seed=i) for i in range(3)])
    with Runtime(built[0], backend="reference") as runtime:
        runtime.use("flowers")
        prep = runtime.preprocessing
        np.save(tmp_path / "uint8.npy", pixels)
        np.save(tmp_path / "one.npy", pixels[0])
        np.save(tmp_path / "float.npy", prep.normalise(np.stack([prep.resize_and_crop(p) for p in pixels])))
        Image.fromarray(pixels[1]).save(tmp_path / "1.png")
        expected = [p.logits for p in runtime.run(pixels)]

        def logits(images, **options):
            return [p.logits for p in runtime.run(images, **options)]

        for name in ("uint8.npy", "float.npy"):
            np.testing.assert_allclose(logits(str(tmp_path / name), batch_size=2), expected, rtol=1e-4, atol=1e-4)
        mixed = logits([tmp_path / "one.npy", tmp_path / "1.png", pixels[2], tmp_path / "uint8.npy"], batch_size=4)
        np.testing.assert_allclose(mixed, [*expected, *expected], rtol=1e-4, atol=1e-4)
        np.save(tmp_path / "odd.npy", np.zeros((2, 5)))
        for name, message in (("odd.npy", "odd.npy: expected images of shape"), ("gone.npy", "no such file")):
            with pytest.raises(ImageError, match=message):
                runtime.run(tmp_path / name)


def test_batches_are_the_same_numbers_whichever_way_they_come(tmp_path):
    pixels = np.stack([picture(80, 90, seed=i) for i in range(5)])
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    np.save(tmp_path / "x.npy", pixels)
    expected = PREP.normalise(np.stack([PREP.resize_and_crop(p) for p in pixels]))
    for images in (paths, pixels, list(pixels), str(tmp_path / "x.npy"), expected):
        found = list(batches(images, PREP, 2))
        assert [len(b) for b in found] == [2, 2, 1] and found[0].dtype == np.float32
        np.testing.assert_array_equal(np.concatenate(found), expected)
    with pytest.raises(ImageError, match="batch_size must be at least 1"):
        list(batches(paths, PREP, 0))
    with pytest.raises(ImageError, match="the list is empty"):
        list(batches([], PREP, 1))


def test_what_cannot_be_read_is_left_out_where_that_is_asked_for(tmp_path):
    Image.fromarray(picture(80, 90)).save(tmp_path / "good.png")
    np.save(tmp_path / "good.npy", np.stack([picture(80, 90)] * 2))
    np.save(tmp_path / "odd.npy", np.zeros((2, 5)))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    paths = [str(tmp_path / name) for name in ("bad.jpg", "good.png", "odd.npy", "good.npy")]
    failed = []
    inputs = list(read_inputs(paths, PREP, lambda path, error: failed.append((path, str(error)))))
    assert [i.name for i in inputs] == [paths[1], f"{paths[3]}[0]", f"{paths[3]}[1]"]
    assert [path for path, _ in failed] == [paths[0], paths[2]] and all(p in text for p, text in failed)
    assert all(i.seconds > 0 and i.pixels.shape == (3, 64, 64) for i in inputs)
    assert [b.names for b in in_batches(inputs, 2)] == [[i.name for i in inputs[:2]], [inputs[2].name]]
    with pytest.raises(ImageError, match="bad.jpg"):
        list(read_inputs(paths, PREP))
