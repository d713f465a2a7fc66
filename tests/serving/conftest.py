"""A repository of three small domains, and real Tritons that serve it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import triton_server
from familiar_domains import with_familiar
from served_domains import NAMES, pictures
from synthetic_bundle import write_exits_bundle

from da3.runtime import Runtime
from da3.runtime.app.zipapp import run_engine
from da3.runtime.bundle import update_domain
from da3.runtime.records import ExitRule
from da3.runtime.serving import Repository, Settings


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle; half of `pictures` leave at the first exit of flowers, and signs knows its own. Shared, so never write
    into it."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_exits_bundle(folder, NAMES)
    with Runtime(folder) as runtime:
        first = [one.probability for one in runtime.run(pictures(60), domain="flowers", leave_at=0)]
    with_familiar(folder, "signs")
    update_domain(folder, "flowers", exits=[ExitRule(float(np.median(first))), ExitRule(None)])
    return folder


@pytest.fixture(scope="session")
def packed(bundle, tmp_path_factory):
    """A repository with all of the bundle's domains. Shared, so never write into it."""
    return make_repository(tmp_path_factory.mktemp("packed") / "repository", bundle, NAMES)


@pytest.fixture
def repository(packed, tmp_path):
    """A repository of one's own."""
    return Repository(shutil.copytree(packed.path, tmp_path / "repository"))


@pytest.fixture(scope="module")
def served(packed, tmp_path_factory):
    """A Triton that serves the shared repository, all of its domains loaded."""
    loads = [f"--load-model={name}" for name in NAMES]
    with triton_server.Triton(packed.models, tmp_path_factory.mktemp("served"), options=loads) as server:
        yield server


def make_repository(path, bundle, names):
    repository = Repository(Path(path))
    repository.write_runtime(bundle, Settings(threads=1), run_engine())
    for name in names:
        repository.put(name, bundle)
    return repository
