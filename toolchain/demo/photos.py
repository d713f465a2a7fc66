"""Two small domains for the demo, made from installed packages only: handwritten digits and printed letters.

``digits`` are real: scikit-learn's copy of the UCI handwritten digits (8x8 pixels, upscaled). ``glyphs`` are
the 26 Latin capitals in the fonts that ship with matplotlib, coloured, turned and noisy; validation uses
fonts that training never sees. Files are ``<out>/<domain>/{train,val}/<class>/<number>.png``, 64x64 RGB.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from da3.runtime.errors import Da3Error
from da3.toolchain.errors import DataError

SIZE = 64
PER_CLASS = {"digits": {"train": 60, "val": 30}, "glyphs": {"train": 23, "val": 10}}
# File by file apart; upright and slanted faces, with and without serifs, are on both sides.
GLYPH_FONTS = {
    "train": (
        "DejaVuSans.ttf",
        "DejaVuSans-BoldOblique.ttf",
        "DejaVuSerif.ttf",
        "DejaVuSerif-BoldItalic.ttf",
        "DejaVuSansMono.ttf",
        "cmb10.ttf",
        "cmti10.ttf",
    ),
    "val": (
        "STIXGeneral.ttf",
        "STIXGeneralBolIta.ttf",
        "cmr10.ttf",
        "cmss10.ttf",
        "cmtt10.ttf",
    ),
}
_SUPERSAMPLE = 2


class Picture(NamedTuple):
    """One picture to write; ``number`` counts within its class."""

    split: str
    label: str
    number: int
    image: Image.Image


def write_domain(name: str, out_dir: str | Path, seed: int = 0) -> Path:
    """Write domain ``name`` below ``out_dir``, over what is there, and return its folder. Same seed, same bytes.

    Raises DataError for an unknown name and Da3Error when a package that holds the raw material is missing.
    """
    if name not in DOMAINS:
        raise DataError(f"unknown demo domain {name!r}; known are: {', '.join(DOMAINS)}")
    folder = Path(out_dir) / name
    for picture in _MAKERS[name](np.random.default_rng([seed, DOMAINS.index(name)])):
        path = folder / picture.split / picture.label / f"{picture.number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(path, compress_level=1)
    return folder


def _digits(rng: np.random.Generator) -> Iterator[Picture]:
    """Per class 60 of the first 120 images for training and the last 30 for validation, shuffled by ``rng``.

    Neighbours in scikit-learn's file are alike, as if it stood in the order of the writers: a linear probe gets
    about 4 points less on its end than on a random split. A device meets new writers, so the end is for validation.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits", error) from error
    data = load_digits()
    for digit in range(10):
        rows = np.flatnonzero(data.target == digit)  # 174 to 183 of them
        for split, pool in (("train", rows[:120]), ("val", rows[-30:])):
            for number, row in enumerate(rng.choice(pool, PER_CLASS["digits"][split], replace=False)):
                pixels = (data.images[row] * (255 / 16)).astype(np.uint8)  # (8, 8), from 0..16
                image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                yield Picture(split, str(digit), number, image.convert("RGB"))


def _glyphs(rng: np.random.Generator) -> Iterator[Picture]:
    """Every letter in every font of its split in turn, each drawing with its own colours, pose and noise."""
    try:
        import matplotlib
    except ImportError as error:
        raise _missing("glyphs", error) from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for split, count in PER_CLASS["glyphs"].items():
        fonts = [
            # BASIC layout: the same pixels whether or not Pillow finds the optional raqm library.
            [
                ImageFont.truetype(folder / file, s * _SUPERSAMPLE, layout_engine=ImageFont.Layout.BASIC)
                for s in (38, 44, 50)
            ]
            for file in GLYPH_FONTS[split]
        ]
        for letter in string.ascii_uppercase:
            for number in range(count):
                sizes = fonts[number % len(fonts)]
                yield Picture(split, letter, number, _draw(letter, sizes[rng.integers(len(sizes))], rng))


def _draw(letter: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> Image.Image:
    """One coloured, turned, shifted, noisy letter on a shaded background, (SIZE, SIZE) RGB."""
    big = SIZE * _SUPERSAMPLE
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)
    shift = rng.uniform(-4, 4, 2) * _SUPERSAMPLE
    draw.text((big / 2 + shift[0], big / 2 + shift[1]), letter, fill=255, font=font, anchor="mm")
    mask = mask.rotate(rng.uniform(-25, 25), Image.Resampling.BILINEAR)
    for _ in range(rng.integers(1, 4)):  # stray lines, which the demo's backbone has not seen
        draw = ImageDraw.Draw(mask)
        draw.line(tuple(rng.uniform(0, big, 4)), fill=int(rng.integers(80, 230)), width=int(rng.integers(2, 5)))
    alpha = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)[..., None] / 255  # (S, S, 1)

    ink, paper = _two_colours(rng)
    ramp = np.linspace(-1, 1, SIZE)
    slope = rng.uniform(-40, 40, 2)
    shade = slope[0] * ramp[:, None, None] + slope[1] * ramp[None, :, None]
    noise = rng.normal(0, rng.uniform(3, 20), (SIZE, SIZE, 3))
    pixels = alpha * ink + (1 - alpha) * paper + shade + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB colours (3,) in 0..255 that differ by at least 60 on average, so that the letter can be read."""
    while True:
        ink, paper = rng.uniform(0, 255, (2, 3))
        if np.abs(ink - paper).mean() >= 60:
            return ink, paper


def _missing(domain: str, error: ImportError) -> Da3Error:
    extra = "demo" if (error.name or "").startswith("sklearn") else "train"
    return Da3Error(f"the demo domain {domain!r} needs {error.name or error}: pip install 'da3[{extra}]'")


_MAKERS: dict[str, Callable[[np.random.Generator], Iterator[Picture]]] = {"digits": _digits, "glyphs": _glyphs}
DOMAINS = tuple(_MAKERS)
