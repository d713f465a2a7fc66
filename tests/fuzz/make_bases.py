"""Makes bases/ from what da3 writes today: `python -m fuzz.make_bases`, of which bases.py warns."""

import contextlib
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import synthetic_bundle
import torch
from PIL import Image
from safetensors.torch import save_file
from selftest_bundles import add_goldens

from da3.runtime.app import main
from da3.runtime.bundle.packs import remove_domain, write_pack
from da3.runtime.training import AdaptorSpec, Progress, RunConfig
from da3.runtime.training.checkpoint import write
from da3.runtime.trt.engines import EngineOptions, Exceptions
from da3.runtime.trt.store import Device, EngineEntry, EngineSet, write_plan
from da3.toolchain.backbones import backbone_keys
from da3.toolchain.backbones.registry import build_network

from .bases import FOLDER

WIDTH = 0.01


def gated(folder):
    synthetic_bundle.write_bundle(folder / "bundle")
    photos(folder)


def exits(folder):
    bundle = folder / "bundle"
    synthetic_bundle.write_exits_bundle(bundle, ("flowers", "signs", "tulips"))
    ranges(bundle)
    add_goldens(bundle)
    write_pack(bundle, "tulips", folder / "tulips.da3")
    write_pack(bundle, "flowers", folder / "flowers.da3")
    remove_domain(bundle, "tulips")
    zipped(bundle, folder / "zipped.zip", "bundle/")
    photos(folder)
    rows = [f"photos/flowers_{i}/{j}.png,flowers_{i}" for i in range(3) for j in range(2)]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    record(folder)
    engines(bundle)
    run(folder / "runs" / "ferns")


def photos(folder):
    rng = np.random.RandomState(3)
    for i in range(3):
        place = folder / "photos" / f"flowers_{i}"
        place.mkdir(parents=True)
        for j in range(2):
            Image.fromarray(rng.randint(0, 255, (12, 10, 3), np.uint8)).save(place / f"{j}.png")
    shutil.copy(folder / "photos" / "flowers_0" / "0.png", folder / "photo.png")


def ranges(bundle):
    """INT8 ranges of the blocks, as `da3 calibrate --int8` lists them."""
    content = {
        "format": 1,
        "percent": 99.99,
        "photos": 4,
        "domains": ["flowers"],
        "ranges": {f"backbone/block_{i}.onnx": {"x": 3.0} for i in range(3)},
        "others": {f"backbone/block_{i}.onnx": {"x": 3.0, "a": 1.0, "s": 6.0} for i in range(3)},
    }
    path = bundle / "backbone" / "int8.json"
    path.write_text(json.dumps(content))
    manifest = synthetic_bundle.read_manifest(bundle)
    manifest["files"]["backbone/int8.json"] = synthetic_bundle.file_entry(path)
    synthetic_bundle.write_manifest(bundle, manifest)


def record(folder):
    """What `da3 evaluate --json` writes, with nothing of the machine that it was written on."""
    path = folder / "earlier.json"
    words = ["evaluate", folder / "photos", "-b", folder / "bundle", "-d", "flowers", "--json", path, "--threads", "1"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([str(word) for word in words], program="da3") == 0
    content = json.loads(path.read_text().replace(f"{folder}/", ""))
    content["versions"] = {"da3": content["versions"]["da3"]}
    path.write_text(json.dumps(content))


def engines(bundle):
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    place = bundle / "engines" / "trt8.5.2.2-sm53-fp16-0123456789abcdef"
    device, options = Device("8.5.2.2", "NVIDIA Tegra X1", 53), EngineOptions("fp16", (1, 8))
    made = EngineSet(str(place), device, options, {}, Exceptions((), ()), 2, 1.6e9)
    for i in range(2):
        plan = bytes(range(64)) * (i + 1)
        entry = EngineEntry(
            name=f"stem {i}",
            plan=f"{i:016x}.plan",
            sha256=synthetic_bundle.hashlib.sha256(plan).hexdigest(),
            nbytes=len(plan),
            onnx_sha256="0" * 64,
            layouts={"x": "linear"},
            precision="fp16",
            libraries=False,
            seconds=1.5,
        )
        write_plan(made, f"{i:064x}", entry, plan)


def run(folder):
    spec = AdaptorSpec(grid=8, mid=4, first=0, exits=(1,), exit_width=2)
    config = RunConfig(
        domain="ferns",
        data="/photos/ferns",
        method="da3",
        backbone="mobilenet_v2",
        weights_sha256="a" * 64,
        classes=("bracken", "maidenhair"),
        size=32,
        epochs=2,
        batch_size=4,
        lr=0.004,
        keep=0.7,
        seed=0,
        flip=True,
        label_smoothing=0.1,
        adaptor=spec,
    )
    figures = ("train_loss", "train_accuracy", "train_share", "val_loss", "val_accuracy", "val_share", "lr", "seconds")
    row = {"epoch": 1, "images_per_second": 10.0, "memory_mb": 200.0, **dict.fromkeys(figures, 0.5)}
    rng = np.random.RandomState(0)
    shapes = {"head.weight": (2, 3), "head.bias": (2,), "adaptors.0.down": (3, 2), "closed": (3,)}
    model = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    state = {
        f"{i}.{name}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes.values()) for name in ("m", "v")
    }
    told = {"da3": "0.1.0", "begun": "2026-11-26T08:00:00Z", "photos": {"sha256": "c" * 64, "train": 8, "val": 4}}
    write(
        folder / "last.safetensors",
        config,
        Progress(1, 1, {"photos": 4.0, "loss": 1.0}, [row], row),
        model,
        state,
        told,
    )
    write(folder / "best.safetensors", config, Progress(1, 0, {}, [row], row), model, {}, told)


def pictures(folder):
    """Every format, colour mode and way of packing that people's photos have, 24 x 20 pixels."""
    rng = np.random.RandomState(5)
    smooth = np.clip(np.add.outer(np.arange(20) * 6, np.arange(24) * 5)[..., None] + [0, 20, 40], 0, 255)
    rgb = Image.fromarray((smooth + rng.randint(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    exif[0x010E] = "a picture"
    saved = {
        "rgb.png": (rgb, {}),
        "palette.png": (rgb.convert("P"), {"transparency": 3}),
        "grey16.png": (Image.fromarray((smooth[..., 0] * 200).astype(np.uint16)), {}),
        "rgba.png": (rgb.convert("RGBA"), {"exif": exif}),
        "baseline.jpg": (rgb, {"quality": 85}),
        "progressive.jpg": (rgb, {"progressive": True, "exif": exif}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "large.jpg": (rgb.resize((320, 280)), {"quality": 30}),
        "still.gif": (rgb.convert("P"), {}),
        "moving.gif": (rgb.convert("P"), {"save_all": True, "append_images": [rgb.rotate(9).convert("P")]}),
        "rgb.bmp": (rgb, {}),
        "packed.bmp": (rgb.convert("P"), {}),
        "lossy.webp": (rgb, {"exif": exif}),
        "lossless.webp": (rgb.convert("RGBA"), {"lossless": True}),
        "plain.tif": (rgb, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "deflate.tif": (rgb.convert("CMYK"), {"compression": "tiff_deflate"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "pages.tif": (rgb, {"save_all": True, "append_images": [rgb]}),
        "float.tif": (Image.fromarray(smooth[..., 0].astype(np.float32)), {}),
        "rgb.ppm": (rgb, {}),
        "grey.pgm": (rgb.convert("L"), {}),
    }
    folder.mkdir()
    for name, (picture, options) in saved.items():
        picture.save(folder / name, **options)
    text = b"P3\n# colours\n4 3\n255\n" + b" ".join(b"%d" % n for n in rng.randint(0, 255, 36)) + b"\n"
    (folder / "text.ppm").write_bytes(text)
    np.save(folder / "pictures.npy", np.asarray(rgb)[None])
    np.save(folder / "tensors.npy", rng.normal(0, 1, (2, 3, 16, 16)).astype(np.float32))
    np.save(folder / "fortran.npy", np.asfortranarray(rng.randint(0, 255, (3, 8, 9, 3), np.uint8)))
    np.savez(folder / "archive.npz", np.asarray(rgb))
    np.save(folder / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)


def weights(folder):
    """The tensors are constant: the network computes nothing here, and files stay small."""
    folder.mkdir()
    state = build_network("mobilenet_v2", WIDTH).state_dict()
    kept = {name: torch.full_like(state[name], 0.5) for name in backbone_keys(state)}
    facts = {"arch": "mobilenet_v2", "width": str(WIDTH), "input_range": "-1..1", "input_size": "32"}
    save_file(kept, folder / "small.safetensors", facts)
    plain = dict(list(kept.items())[:12])
    torch.save(plain, folder / "part.pth")
    torch.save({"state_dict": plain}, folder / "old.pth", _use_new_zipfile_serialization=False)
    lines = ['domain = "ferns"', "epochs = 3", "[train]", 'weights = "small.safetensors"', "keep = 0.7", "flip = false"]
    (folder / "options.toml").write_text("\n".join(lines) + "\n")


def zipped(source, out, inside=""):
    """The same bytes for the same files."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(inside + path.relative_to(source).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for make in (gated, exits, pictures, weights):
        name = {"pictures": "photos"}.get(make.__name__, make.__name__)
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / name
            make(made)
            zipped(made, FOLDER / f"{name}.zip")
