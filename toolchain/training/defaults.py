"""What ``da3 train`` does where a user says nothing. Imports nothing, so that ``--help`` is quick."""

from __future__ import annotations

DEFAULTS: dict[str, object] = {
    "method": "da3",
    "backbone": "mobilenet_v2",
    "weights": "imagenet",
    "epochs": 15,
    "keep": 1.0,
    "seed": 0,
    "flip": True,
    "label_smoothing": 0.1,
}

DEFAULT_BATCH = 32  # and fewer for fewer than 256 photos: see TrainOptions.config
