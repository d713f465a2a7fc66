"""Pictures drawn from nothing but code and the fonts that ship with matplotlib, to train the demo's backbone on.

Letters of scripts other than Latin, signs, polygons, stars, textures and invented handwriting; every picture has its
own pose, colours, noise and blur. Nothing is downloaded, so nothing carries a licence of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

SIZE = 64
CANVAS = 96  # masks are larger than the picture, so that a turned texture still fills it

# Scripts and signs to draw; what looks like a Latin letter or a digit is dropped by shape, in symbols().
CANDIDATES = (
    [chr(c) for c in (*range(0x0391, 0x03A2), *range(0x03A3, 0x03AA), *range(0x03B1, 0x03CA))]  # Greek
    + [chr(c) for c in range(0x0410, 0x0450) if c != 0x041A]  # Cyrillic; its K is a K in most fonts, if not in all
    + [chr(c) for c in range(0x0531, 0x0557)]  # Armenian
    + [chr(c) for c in range(0x10D0, 0x10F1)]  # Georgian
    + list("←↑→↓↔↕↖↗↘↙↩↪↺↻⇄⇐⇑⇒⇓⇔")
    + list("∀∂∃∅∇∈∋∏∐∑∓√∝∞∠∥∧∩∫∬∮∴∵\u223c≅≈≠≡≤≥≪≫⊂⊃⊆⊇⊕⊗⊙⊢⊣⊥⋄⋈")
    + list("■□▣▤▥▦▧▨▩▬▲△▶▷▼▽◀◁◆◇◈◉○◌◍◎●◐◑◒◓◢◣◤◥")
    + list("★☆☎☐☑☒☘☝☠☢☣☥☪☮☯☸☹☺☼☽☾♀♁♂♃♄♅♆♈♉♊♋♌♍♎♏♐♑♒♓")
    + list("♔♕♖♗♘♙♚♛♜♝♞♟♠♡♢♣♤♥♦♧♨♩♪♫♬♭♮♯⚒⚓⚔⚖⚘⚙⚛⚠")
)
LOOKALIKES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def symbols(min_fonts: int = 4) -> dict[str, list[Path]]:
    """Character -> the matplotlib fonts that have it, for characters in at least ``min_fonts`` fonts.

    A character that looks like a Latin letter, a digit or an earlier character is left out: the demo's
    domains must be new to the backbone, and no picture may have two right answers.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = {path: set(FT2Font(path).get_charmap()) for path in sorted(folder.glob("*.ttf"))}
    fonts = {path: have for path, have in fonts.items() if path.name.startswith(("DejaVu", "STIXGeneral"))}
    reference = folder / "DejaVuSans.ttf"
    seen = [_shape(c, reference) for c in LOOKALIKES]
    chosen = {}
    for char in CANDIDATES:
        have = [path for path in fonts if ord(char) in fonts[path]]
        if len(have) < min_fonts or reference not in have:
            continue
        shape = _shape(char, reference)
        if max(float((shape * other).sum()) for other in seen) < 0.9:
            seen.append(shape)
            chosen[char] = have
    return chosen


def _shape(char: str, font: Path) -> np.ndarray:
    """The character cut out, scaled to (32, 32), blurred a little, with unit length: for comparing shapes."""
    image = _symbol(char, font)
    image = image.crop(image.getbbox()).resize((32, 32)).filter(ImageFilter.GaussianBlur(1))
    pixels = np.asarray(image, np.float64)
    return pixels / np.linalg.norm(pixels)


def _symbol(char: str, font: Path) -> Image.Image:
    """A character that fills about 52 pixels of a CANVAS x CANVAS mask, mode L."""
    face = ImageFont.truetype(font, 64, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = face.getbbox(char, anchor="ls")
    face = face.font_variant(size=max(8, 64 * 52 // max(right - left, bottom - top, 36)))
    image = Image.new("L", (CANVAS, CANVAS))
    left, top, right, bottom = face.getbbox(char, anchor="ls")
    origin = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(origin, char, fill=255, font=face, anchor="ls")
    return image


# A drawer makes one new drawing of its class: a (CANVAS, CANVAS) mask of 0..1.
Drawer = Callable[[np.random.Generator], np.ndarray]
_Y, _X = np.mgrid[:CANVAS, :CANVAS] - (CANVAS - 1) / 2


def shapes() -> dict[str, Drawer]:
    """Polygons, stars, rings, and textures that fill the picture, by name."""
    found: dict[str, Drawer] = {}
    for fill in (True, False):
        for n in (3, 4, 5, 6, 8):
            found[f"polygon {n} {fill}"] = lambda rng, n=n, fill=fill: _star(rng, n, 1.0, fill)
            found[f"star {n} {fill}"] = lambda rng, n=n, fill=fill: _star(rng, n, rng.uniform(0.35, 0.55), fill)
    for n in (2, 3, 4):
        found[f"rings {n}"] = lambda rng, n=n: _wave(_radius(rng) / rng.uniform(22, 28) * n) * (_radius(rng) < 28)
    for turn in range(4):
        for period in (5, 9, 16):
            found[f"grating {turn} {period}"] = lambda rng, t=turn, p=period: _grating(rng, t * math.pi / 4, p)
        found[f"streaks {turn}"] = lambda rng, t=turn: _blobs(rng, 2.5, 14, t * math.pi / 4)
    for period in (8, 14, 24):
        found[f"checker {period}"] = lambda rng, p=period: _crossed(rng, 0, p, lambda a, b: a * b > 0)
        found[f"diamonds {period}"] = lambda rng, p=period: _crossed(rng, 1, p, lambda a, b: a * b > 0)
        found[f"dots {period}"] = lambda rng, p=period: _crossed(rng, 0, p, lambda a, b: a + b > 1)
        found[f"grid {period}"] = lambda rng, p=period: _crossed(rng, 0, p, lambda a, b: np.maximum(a, b) > 0.8)
        found[f"blobs {period}"] = lambda rng, p=period: _blobs(rng, p / 3, p / 3, 0)
        found[f"rays {period}"] = lambda rng, p=period: _wave(np.arctan2(_Y, _X) * (p // 2) / 6.2832 + rng.random())
        for hand in (-1, 1):
            found[f"spiral {hand} {period}"] = lambda rng, p=period, h=hand: _spiral(rng, p, h)
    return found


def _wave(phase: np.ndarray) -> np.ndarray:
    return (np.cos(phase * 2 * math.pi) > 0).astype(np.float64)


def _radius(rng: np.random.Generator) -> np.ndarray:
    return np.hypot(_X, _Y * rng.uniform(0.85, 1.15))


def _grating(rng: np.random.Generator, angle: float, period: float) -> np.ndarray:
    along = (_X * math.cos(angle) + _Y * math.sin(angle)) / (period * rng.uniform(0.9, 1.1)) + rng.random()
    return _wave(along) if rng.random() < 0.5 else 0.5 + 0.5 * np.cos(along * 2 * math.pi)


def _crossed(rng: np.random.Generator, diagonal: int, period: float, rule: Callable) -> np.ndarray:
    x, y = (_X + _Y, _X - _Y) if diagonal else (_X, _Y)
    scale = 2 * math.pi / (period * rng.uniform(0.9, 1.1) * (1.414 if diagonal else 1))
    return rule(np.cos(x * scale + rng.uniform(0, 6)), np.cos(y * scale + rng.uniform(0, 6))).astype(np.float64)


def _spiral(rng: np.random.Generator, period: float, hand: int) -> np.ndarray:
    return _wave(np.hypot(_X, _Y) / (period * rng.uniform(0.9, 1.1)) + hand * np.arctan2(_Y, _X) / (2 * math.pi))


def _blobs(rng: np.random.Generator, across: float, along: float, angle: float) -> np.ndarray:
    """Noise smoothed by a Gaussian of these widths (in pixels) in the Fourier domain, cut at its median."""
    fy, fx = np.meshgrid(np.fft.fftfreq(CANVAS), np.fft.fftfreq(CANVAS), indexing="ij")
    u, v = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle) - fx * math.sin(angle)
    gaussian = np.exp(-2 * math.pi**2 * ((u * across) ** 2 + (v * along) ** 2))
    smooth = np.fft.ifft2(np.fft.fft2(rng.normal(size=(CANVAS, CANVAS))) * gaussian).real
    return (smooth > np.median(smooth)).astype(np.float64)


def _star(rng: np.random.Generator, points: int, inner: float, fill: bool) -> np.ndarray:
    """A star whose inner corners lie at ``inner`` of the radius; a regular polygon where inner is 1."""
    corners = points * (1 if inner == 1.0 else 2)
    angles = np.arange(corners) * 2 * math.pi / corners + rng.uniform(-0.2, 0.2) - math.pi / 2
    radius = 27 * np.where(np.arange(corners) % 2, inner, 1.0) * rng.uniform(0.93, 1.07, corners)
    xy = [(48 + r * math.cos(a), 48 + r * math.sin(a)) for r, a in zip(radius, angles, strict=True)]
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    if fill:
        draw.polygon(xy, fill=255)
    else:
        draw.line([*xy, xy[0], xy[1]], fill=255, width=int(rng.integers(3, 7)), joint="curve")
    return np.asarray(image) / 255


def scribbles(count: int, seed: int) -> dict[str, Drawer]:
    """Invented handwritten characters: each class is a pen path, each drawing a shaky copy of it."""
    found: dict[str, Drawer] = {}
    rng = np.random.default_rng([seed, 1])
    for n in range(count):
        strokes = [rng.uniform(-26, 26, (int(rng.integers(3, 6)), 2)) for _ in range(1 + (n % 3 == 2))]
        found[f"scribble {n}"] = lambda rng, strokes=strokes: _scribble(rng, strokes)
    return found


def _scribble(rng: np.random.Generator, strokes: list[np.ndarray]) -> np.ndarray:
    """The strokes' corners, moved by a few pixels and joined by a smooth (Catmull-Rom) line."""
    image = Image.new("L", (CANVAS, CANVAS))
    draw, width = ImageDraw.Draw(image), int(rng.integers(3, 9))
    t = np.linspace(0, 1, 12)[:, None]
    for stroke in strokes:
        p = 48 + stroke + rng.normal(0, 2.5, stroke.shape)
        p = np.concatenate([p[:1], p, p[-1:]])
        curve = [
            b + t * (c - a) / 2 + t**2 * (a - 2.5 * b + 2 * c - d / 2) + t**3 * (1.5 * (b - c) + (d - a) / 2)
            for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
        ]
        draw.line([tuple(xy) for xy in np.concatenate(curve)], fill=255, width=width, joint="curve")
    return np.asarray(image) / 255


@dataclass(frozen=True)
class Drawings:
    """Masks (N, CANVAS, CANVAS) uint8 with their classes (N,) int64, and how many classes there are."""

    masks: Tensor
    labels: Tensor
    classes: int


def draw_all(variants: int, seed: int) -> tuple[Drawings, Drawings]:
    """(training, held-out) drawings. Every eighth drawing or font of a class, at least one, is held out."""
    rng = np.random.default_rng([seed, 0])
    per_class = [[np.asarray(_symbol(c, font)) for font in fonts] for c, fonts in symbols().items()]
    for draw in (shapes() | scribbles(60, seed)).values():
        per_class.append([(draw(rng) * 255).astype(np.uint8) for _ in range(variants)])
    sides: tuple[list, list] = ([], [])
    for label, masks in enumerate(per_class):
        for i, mask in enumerate(masks):
            sides[i % 8 == 1].append((mask, label))
    train, held = (
        Drawings(
            torch.from_numpy(np.stack([m for m, _ in side])),
            torch.tensor([k for _, k in side]),
            len(per_class),
        )
        for side in sides
    )
    return train, held


def batch(drawings: Drawings, count: int, generator: torch.Generator, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random drawings in random pose, stroke, colours, shading, noise and blur.

    ``strength`` 0..1 scales pose and noise. Returns images (count, 3, SIZE, SIZE) float32 in -1..1, channels
    last, and classes (count,) int64. A class with few fonts is seen as often as one with many drawings.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    def chance(p: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1, generator=generator) < p).float()

    first = torch.searchsorted(drawings.labels, torch.arange(drawings.classes + 1))
    labels = torch.randint(drawings.classes, (count,), generator=generator)
    spread = (first[labels + 1] - first[labels]).clamp(min=1)
    picked = first[labels] + (torch.rand(count, generator=generator) * spread).long()
    picked = picked.clamp(max=len(drawings.labels) - 1)
    labels = drawings.labels[picked]
    mask = drawings.masks[picked].unsqueeze(1).float() / 255  # (B, 1, CANVAS, CANVAS)

    # Pose: rotation, shear, scale per axis, shift, and a smooth displacement like a shaky hand's.
    k = strength
    angle, shear = uniform(-0.4, 0.4) * k, uniform(-0.25, 0.25) * k
    zoom = uniform(-0.3, 0.35) * k
    sx, sy = ((zoom + uniform(-0.14, 0.14) * k).exp() * SIZE / CANVAS for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([sx * cos, sy * (shear * cos - sin), uniform(-0.14, 0.14) * k], 1)
    row_y = torch.stack([sx * sin, sy * (shear * sin + cos), uniform(-0.14, 0.14) * k], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), [count, 1, SIZE, SIZE], align_corners=False)
    bend = torch.randn(count, 2, 4, 4, generator=generator) * uniform(0, 0.04 * k, 1, 1, 1)
    grid = grid + F.interpolate(bend, (SIZE, SIZE), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    mask = F.grid_sample(mask, grid, padding_mode="border", align_corners=False)  # (B, 1, SIZE, SIZE)
    thick = uniform(0, 1, 1, 1, 1)
    mask = torch.where(thick < 0.2, F.max_pool2d(mask, 3, 1, 1), mask)

    # Blur by way of a few low resolutions, whole groups at a time.
    for group, low in zip(torch.arange(count).chunk(12), (12, 16, 24), strict=False):
        small = F.interpolate(mask[group], (low, low), mode="area")
        mask[group] = F.interpolate(small, (SIZE, SIZE), mode="bicubic", align_corners=False)

    # Colours: ink on paper, both shaded; a third grey, some with a faint other drawing behind.
    ink, paper = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    grey = chance(0.33)
    ink = torch.where(grey > 0, ink.mean(1, keepdim=True).round().expand_as(ink), ink)
    paper = torch.where(grey > 0, (1 - ink) * uniform(0.6, 1, 1, 1, 1), paper)
    gap = ink - paper
    ink = paper + gap * (0.25 / gap.abs().mean(1, keepdim=True).clamp(min=1e-3)).clamp(min=1)
    ramp = torch.linspace(-1, 1, SIZE)
    shade = uniform(-0.2, 0.2, 1, 1, 1) * ramp.view(-1, 1) + uniform(-0.2, 0.2, 1, 1, 1) * ramp
    behind = mask.roll(1, 0) * uniform(-0.2, 0.2, 3, 1, 1) * chance(0.2 * k)
    image = paper + behind + mask * (ink - paper) + shade * chance(0.6 * k)
    image = image + torch.randn(image.shape, generator=generator) * uniform(0, 0.12 * k, 1, 1, 1) * chance(0.6)
    return (image.clamp(0, 1) * 2 - 1).to(memory_format=torch.channels_last), labels
