"""What lies where in a repository, and the settings of the model that all its domains share.

    REPO/models/                     Triton's model repository: tritonserver --model-repository=REPO/models
    REPO/models/da3_runtime/         the one model with a process: config.pbtxt, 1/model.py, 1/run_engine.pyz
    REPO/models/flowers/             a domain: config.pbtxt of an ensemble, labels.txt, 1/da3.json (its number)
    REPO/store/repository.json       the settings, and the number that the next domain gets
    REPO/store/bundle/               a bundle without domains
    REPO/store/packs/17.da3          the pack of the domain with the number 17

Triton takes every folder in its repository for a model, and where it polls, it loads a model again when anything in its
folder changes. So what changes, and what is in writing, lies beside the models and not among them.
"""

from typing import NamedTuple, Optional

RUNTIME = "da3_runtime"  # what the model is called that all domains share
MODELS = "models"
STORE = "store"
BUNDLE = "bundle"
PACKS = "packs"
STATE = "repository.json"
CONFIG = "config.pbtxt"
LABELS = "labels.txt"
VERSION = "1"  # of every model: Triton wants a folder of that name
NUMBER = "da3.json"
FORMAT = 1  # of repository.json and da3.json
MOST_PICTURES = 64  # that one request may have, and that Triton may put together for one run


class Settings(NamedTuple):
    """How the runtime runs. backend, precision, threads: see Runtime; batch_size: pictures of one domain per run of the
    engine; domains_held: how many domains are in memory; the
    others are read when they are asked for, which takes less than half of what answering a picture does."""

    backend: str = "auto"
    precision: Optional[str] = None
    threads: Optional[int] = None
    batch_size: int = 8
    domains_held: int = 24


def pack_name(number: int) -> str:
    """What the pack of the domain with this number is called."""
    return "%d.da3" % number
