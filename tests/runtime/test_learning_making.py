"""Files that are made in a process of their own: what they compute, and what is said when they cannot be made."""

import numpy as np
import pytest
from test_learning_cpu import answers
from test_learning_step import CLASSES, batch, deployed, double_tensors, feeds, network

from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.writer import write_files
from da3.runtime.errors import BackendError
from da3.runtime.learning import derive_observation, derive_step
from da3.runtime.learning.making import OBSERVATION, STEP, make_file
from da3.runtime.onnx_graph.writing import write_model


@pytest.fixture(scope="module")
def model():
    return network("mobilenet_v2", 0.35, 64, (2, 8))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("making") / "bundle"
    write_files(folder, deployed(model).every_file())
    return folder


@pytest.mark.parametrize("kind", [STEP, OBSERVATION])
def test_the_file_computes_what_is_derived(kind, model, folder, tmp_path):
    path = tmp_path / "new" / "made.onnx"
    make_file(kind, folder, path, CLASSES, (8, 2), threads=1)
    step = derive_step(deployed(model), CLASSES, (2, 8))
    derived = step.model if kind == STEP else derive_observation(deployed(model))
    image, labels = batch(64)
    given = feeds(step, double_tensors(model), image, labels, 1 / 3)
    given = {info.name: given[info.name] for info in derived.inputs}
    session = open_session(str(path), as_written=True)
    assert [value.name for value in session.get_inputs()] == [info.name for info in derived.inputs]
    found, expected = answers(session, given), answers(open_session(write_model(derived)), given)
    for name, value in expected.items():
        errors = np.abs(found[name] - value) / np.abs(value).max()
        assert np.percentile(errors, 95) <= 1e-4 and errors.max() <= 0.1, name


def test_what_cannot_be_made(folder, tmp_path, built):
    for bundle, words in ((tmp_path / "nowhere", "nowhere"), (built[0], "is of format 1, with gates")):
        with pytest.raises(BackendError, match=words) as caught:
            make_file(STEP, bundle, tmp_path / "made.onnx", CLASSES)
        assert "\n" not in str(caught.value) and not (tmp_path / "made.onnx").exists()
