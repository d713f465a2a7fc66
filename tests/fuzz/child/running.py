"""How a case is run: as a command would run it, in this process, with the errors that a command line catches.

A runner takes the case's words, in a folder that is the current one, and returns an exit code and an answer, which JSON
can hold. What it raises, the command that uses the same code would end in a traceback with.
"""

import hashlib
import json
import os
import sys


def run(case):
    """(exit code, answer or None) of a case that is laid out in the current folder."""
    return RUNNERS[case.runner](case.words)


def _command(words):
    """A command of the runtime, as `da3` starts it."""
    from da3.runtime.app import main

    return main(words, program="da3"), None


def _writing(words):
    """The same for commands that write into `bundle`: refused, it is as it was."""
    before = _tree("bundle")
    code, _ = _command(words)
    if code != 0 and _tree("bundle") != before:
        raise AssertionError("the command failed and changed the bundle")
    return code, None


def _adding(words):
    """The same, where all that was in `bundle` was whole: it still is."""
    from da3.runtime.bundle import Bundle

    code, _ = _writing(words)
    if code == 0:
        with Bundle("bundle") as bundle:
            bundle.verify()
    return code, None


def _stored(words):
    """A command run twice; between, what ONNX Runtime has stored in the bundle is damaged. words: a seed of the damage;
    whether the hashes are made to fit it; the command's. What is stored is of this machine: no case can hold it."""
    import contextlib
    import io

    from fuzz.damage.stored import damage

    with contextlib.redirect_stdout(io.StringIO()):
        _command(words[2:])
    damage(os.path.join("bundle", "engines"), int(words[0]), words[1] == "fits")
    return _command(words[2:])


def _toolchain(words):
    """A command that needs PyTorch."""
    from da3.toolchain.cli.commands import run

    sys.argv = ["da3"] + list(words)
    return _caught(run)


def _fleet(words):
    """The file of a fleet, as `da3 fleet train` reads it before it does anything."""
    from da3.toolchain.fleet import read_plan

    return _caught(lambda: [job.to_json() for job in read_plan(words[0]).jobs])


def _pictures(words):
    """Files decoded and made inputs of a network, of as many pixels a side as the first word says."""
    from da3.runtime.images import Preprocessing, read_inputs

    prep = Preprocessing(int(words[0]), 0.875, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))

    def read():
        digest, count = hashlib.sha256(), 0
        for item in read_inputs(words[1:], prep):
            if item.pixels.shape != (3, prep.size, prep.size) or str(item.pixels.dtype) != "float32":
                raise AssertionError("an input of shape %s, %s" % (item.pixels.shape, item.pixels.dtype))
            digest.update(item.pixels.tobytes())
            count += 1
        return [count, digest.hexdigest()]

    return _caught(read)


def _engines(words):
    """The index of a bundle's engines, and each plan that it names, as a run on TensorRT reads them."""
    from da3.runtime.bundle import Bundle
    from da3.runtime.errors import BackendError
    from da3.runtime.trt.store import describe_sets, has_plan, read_plan, read_sets

    def read():
        found = []
        with Bundle("bundle") as bundle:
            found.append(describe_sets(bundle))
        for engines in read_sets(os.path.join("bundle", "engines")):
            for identity in sorted(engines.engines):
                if has_plan(engines, identity):
                    try:
                        found.append(hashlib.sha256(read_plan(engines, identity)).hexdigest())
                    except BackendError:
                        found.append("refused")
        print(found[0])
        return found

    return _caught(read)


def _checkpoint(words):
    """A checkpoint read whole, and as the list of runs reads it."""
    from da3.runtime.training.checkpoint import read, read_facts

    def both():
        if words[0] == "facts":
            facts = read_facts(words[1])
            return [facts.format, facts.config.to_json(), facts.progress.to_json()]
        found = read(words[1])
        return [found.format, found.config.to_json(), sorted(found.model), sorted(found.optimizer)]

    return _caught(both)


def _starting(words):
    """What a run may start from: `--from`."""
    from da3.runtime.bundle import Bundle
    from da3.runtime.learning.starting import find_start

    def find():
        with Bundle("bundle") as bundle:
            start = find_start(words[0], "runs", bundle)
        return [start.source, list(start.classes)]

    return _caught(find)


def _goldens(words):
    """The golden values of a bundle and of its domains."""
    from da3.runtime.bundle import BACKBONE_GOLDENS, Bundle, domain_prefix, read_domain_goldens
    from da3.runtime.selftest.goldens import parse_goldens

    def read():
        found = []
        with Bundle("bundle") as bundle:
            if BACKBONE_GOLDENS in bundle.manifest.files:
                found.append(bundle.read(BACKBONE_GOLDENS))
            found += [read_domain_goldens(bundle.files, domain_prefix(name)) for name in bundle.domains]
        return [len(parse_goldens(data, "goldens").chain) for data in found if data is not None]

    return _caught(read)


def _weights(words):
    """A backbone's weights file, as `da3 train` reads it before it trains: words are the network and the file."""
    from da3.toolchain.backbones import load_weights
    from da3.toolchain.backbones.weights import check_fit

    def read():
        weights = load_weights(words[1], words[0])
        check_fit(network(words[0], weights.width), weights)
        return [weights.sha256(words[0]), weights.width, weights.padding, weights.input_range, weights.input_size]

    return _caught(read)


_networks = {}


def network(arch, width):
    """The network that weights must fit, without memory of its own; made once."""
    import torch

    from da3.toolchain.backbones.registry import build_network

    if (arch, width) not in _networks:
        with torch.device("meta"):
            _networks[arch, width] = build_network(arch, width)
    return _networks[arch, width]


def _record(words):
    """The record of an earlier evaluation, and how it compares."""
    from da3.runtime.evaluation import read_record

    def read():
        return sorted(read_record(words[0]).verdicts)

    return _caught(read)


def _labelled(words):
    """Labelled photos, of a folder or a CSV, with the classes that the other words are."""
    from da3.runtime.evaluation.labelled import read_labelled

    def read():
        found = read_labelled(words[0], words[1:])
        return [[found.name(path), label] for path, label in found.photos] + [found.sha256()]

    return _caught(read)


def _artifact(words):
    """A registry's manifest, as a pull reads it."""
    from da3.runtime.registry.artifact import parse_artifact
    from da3.runtime.system import read_regular

    return _caught(lambda: list(parse_artifact(read_regular(words[0]), "oci://ghcr.io/plants/flowers:v1")))


def _credentials(words):
    """Docker's configuration in the folder `docker`, asked for a host. No helper is found: PATH leads nowhere."""
    from unittest import mock

    from da3.runtime.registry.credentials import find_credentials

    def read():
        found = find_credentials(words[0])
        return None if found is None else [found.user, found.password]

    with mock.patch.dict(os.environ, {"DOCKER_CONFIG": os.path.abspath("docker"), "PATH": os.path.abspath("nowhere")}):
        return _caught(read)


def _reference(words):
    """A reference as it is typed; what is one comes out as it went in."""
    from da3.runtime.registry.reference import parse_reference

    def read():
        if str(parse_reference(words[0])) != words[0]:
            raise AssertionError("a reference that is another")
        return words[0]

    return _caught(read)


def _caught(work):
    """What a command line makes of a piece of work: exit code 1 and a line where it raises what da3 raises."""
    from da3.runtime.app import warnings_in_a_line
    from da3.runtime.errors import Da3Error

    try:
        with warnings_in_a_line():
            answer = work()
        json.dumps(answer)
        return 0, answer
    except (Da3Error, OSError) as error:
        sys.stderr.write("error: %s\n" % error)
        return 1, None


def _tree(folder):
    """Every file below the folder and the hash of its bytes; what engines store for their next start is left out."""
    found = {}
    for root, folders, names in os.walk(folder):
        if root == folder and "engines" in folders:
            folders.remove("engines")
        for name in names + [n for n in folders if os.path.islink(os.path.join(root, n))]:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as opened:
                    found[path] = hashlib.sha256(opened.read()).hexdigest()
            else:
                found[path] = "no file"
    return found


def _half_written():
    """A command that is refused after it began to write."""
    from unittest import mock

    from da3.runtime.errors import BundleError

    def begun(*arguments):
        with open(os.path.join("bundle", "domains", "new"), "wb"):
            raise BundleError("the disk is full")

    with mock.patch("da3.runtime.bundle.packs.remove_domain", begun):
        return _writing(["domains", "remove", "flowers", "-b", "bundle"])


# What a damaged program does: the tests of the harness see that each is found.
def _planted(words):
    import signal

    kind = words[0]
    if kind == "traceback":
        raise KeyError(words)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "hang":
        while True:
            pass
    elif kind == "waiting":
        signal.pause()
    elif kind == "memory":
        block = bytearray(1200 * 2**20)
        block[::4096] = b"1" * len(block[::4096])
    elif kind == "half-written":
        return _half_written()
    elif kind == "changed":
        return 0, ["another answer"]
    elif kind == "exit":
        os._exit(0)
    else:
        sys.stderr.write(words[1])
        sys.stdout.write(words[2] if len(words) > 2 else "")
        return int(kind), None
    return 0, []


RUNNERS = {
    "command": _command,
    "adding": _adding,
    "writing": _writing,
    "stored": _stored,
    "toolchain": _toolchain,
    "fleet": _fleet,
    "pictures": _pictures,
    "engines": _engines,
    "checkpoint": _checkpoint,
    "starting": _starting,
    "goldens": _goldens,
    "weights": _weights,
    "record": _record,
    "labelled": _labelled,
    "artifact": _artifact,
    "credentials": _credentials,
    "reference": _reference,
    "planted": _planted,
}
# Those that need what boards do not have.
TOOLCHAIN = frozenset(("toolchain", "weights", "fleet"))
