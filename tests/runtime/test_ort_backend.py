"""The thread pool of a process: shared, and never in anybody's way. Each case needs a process of its own."""

import os
import subprocess
import sys

import pytest

PREPARE = """
import sys, warnings
import numpy as np
import onnxruntime
from da3.runtime import Runtime
from da3.runtime.backends import sessions

bundle, model = sys.argv[1], sys.argv[1] + "/backbone/skip.onnx"
x = np.zeros((1, 3, 16, 16), np.float32)

def run(threads=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Runtime(bundle, threads=threads) as runtime:
            runtime.run_batch(x, "flowers")
    return [str(w.message) for w in caught]
"""


@pytest.fixture
def script(call, built):
    def run(body):
        done = call("-c", PREPARE + body + "\nprint('done')", built[0])
        assert done.returncode == 0 and done.stdout == "done\n", done.stdout + done.stderr

    return run


def test_one_pool_and_no_notes(script):
    script("assert run() == []; assert run() == []; assert run(2)[0].endswith('threads=2 is ignored')")
    script("assert run(2) == []; assert run(2) == []; assert 'ignored' in run(1)[0]")


def test_one_thread_makes_no_pool(script):
    script("assert run(1) == []; onnxruntime.InferenceSession(model); assert run(1) == []")


def test_our_own_sessions_share_the_pool(script):
    script("run(2); sessions.open_session(model); sessions.open_session(open(model, 'rb').read())")


def test_after_somebody_elses_session(script):
    script("onnxruntime.InferenceSession(model); assert run() == []")


def test_after_somebody_elses_pool(script):
    script("onnxruntime.set_global_thread_pool_sizes(2, 1); assert run() == []")
    script("onnxruntime.set_global_thread_pool_sizes(2, 1); assert 'ignored' in run(2)[0]")


def test_an_older_onnxruntime_without_the_function(script):
    script("del onnxruntime.set_global_thread_pool_sizes; assert 'no shared thread pool' in run()[0]")


def test_an_older_onnxruntime_that_forgets_the_pool(script):
    script(
        "onnxruntime.set_global_thread_pool_sizes = lambda *sizes: None\n"
        "onnxruntime.InferenceSession(model)\n"
        "assert 'another session came first' in run()[0]"
    )


def test_onnxruntime_missing(script):
    script(
        "sys.modules['onnxruntime'] = None\n"
        "from da3.runtime import BackendError\n"
        "try: run()\n"
        "except BackendError as error: assert \"pip install 'da3[cpu]'\" in str(error)\n"
        "else: raise AssertionError('no error')"
    )


def test_bad_choices(built):
    from da3.runtime import BackendError, Runtime

    with pytest.raises(BackendError, match="unknown backend 'trt'; known: auto, onnxruntime"):
        Runtime(built[0], backend="trt")
    with pytest.raises(BackendError, match="threads must be at least 1"):
        Runtime(built[0], threads=0)


def test_nobody_is_told_that_it_is_used(exits_bundle, package_root, tmp_path):
    """ONNX Runtime's telemetry would leave a device's number and a database in the user's cache folder."""
    home = tmp_path / "home"
    home.mkdir()
    code = "import numpy, sys; from da3.runtime import Runtime\n"
    code += "r = Runtime(sys.argv[1], backend='onnxruntime'); r.load('flowers'); r.close()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ORT_")}
    environment.update(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), PYTHONPATH=str(package_root))
    subprocess.run([sys.executable, "-c", code, str(exits_bundle)], env=environment, check=True, timeout=60)
    assert list(home.rglob("*")) == []
