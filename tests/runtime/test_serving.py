"""Domains for Triton: the repository that is written, and the model in it against a double of Triton's backend."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import triton_double
from familiar_domains import with_familiar
from hypothesis import strategies as st
from PIL import Image
from synthetic_bundle import random_weights, write_exits_bundle, write_exits_domain
from triton_double import InferenceRequest

from da3.runtime import BundleError, Da3Error, DomainError, ImageError, Runtime
from da3.runtime.app.commands import main
from da3.runtime.bundle import list_domains, placing, read_pack, update_domain, write_pack
from da3.runtime.records import ExitRule
from da3.runtime.serving import RUNTIME, Repository, ServedModel, Settings
from da3.runtime.serving.numbers import BASE, CARRIERS, MOST, asked_names, asked_number
from da3.runtime.serving.requests import preprocessed, read_request
from da3.runtime.serving.tensors import FAMILIAR_OUTPUTS, OUTPUTS

NAMES = ("flowers", "signs")
PYZ = b"a runtime"
SETTINGS = Settings(threads=1)
ALL = tuple(tensor.name for tensor in OUTPUTS)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A bundle: pictures leave at exits of flowers, and signs knows its own. Shared, so never write into it."""
    folder = tmp_path_factory.mktemp("source") / "bundle"
    write_exits_bundle(folder, NAMES)
    with Runtime(folder, threads=1) as runtime:
        first, second = (
            [one.probability for one in runtime.run(pictures(40), domain="flowers", leave_at=i)] for i in (0, 1)
        )
    update_domain(folder, "flowers", exits=[ExitRule(float(np.median(first))), ExitRule(float(np.median(second)))])
    with_familiar(folder, "signs")
    return folder


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    """A repository with both domains. Shared, so never write into it."""
    return packed_into(tmp_path_factory.mktemp("packed") / "repository", source)


@pytest.fixture
def repository(packed, tmp_path):
    """One of one's own."""
    return Repository(shutil.copytree(packed.path, tmp_path / "repository"))


def packed_into(path, source, settings=SETTINGS):
    made = Repository(path)
    made.write_runtime(source, settings, PYZ)
    for name in list_domains(source):
        made.put(name, source)
    return made


def pack_of(folder, name, seed, classes=4):
    """A domain pack, as a folder."""
    return write_exits_domain(folder, name, random_weights(classes=classes, seed=seed))


def number_of(repository, name):
    return json.loads(Path(repository.models, name, "1", "da3.json").read_text())


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def parse_config(text):
    """config.pbtxt as Triton hands it to the model: enough of protobuf's text form for what da3 writes."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[{}]|[\w.-]+:?', text)
    repeated = {"input", "output", "dims", "step", "instance_group", "parameters", "input_map", "output_map"}

    def message(at):
        found = {}
        while at < len(tokens) and tokens[at] != "}":
            key = tokens[at].rstrip(":")
            if tokens[at + 1] == "{":
                value, at = message(at + 2)
                at += 1
            else:
                word = tokens[at + 1]
                value = json.loads(word) if word[0] in '"-0123456789' or word in ("true", "false") else word
                at += 2
            if key in repeated:
                found.setdefault(key, []).append(value)
            else:
                assert key not in found, key
                found[key] = value
        return found, at

    found, at = message(0)
    assert at == len(tokens)
    for key in ("parameters", "input_map", "output_map"):
        for owner in (found, *found.get("ensemble_scheduling", {}).get("step", [])):
            if key in owner:
                owner[key] = {pair["key"]: pair["value"] for pair in owner[key]}
    return found


def config_of(repository, name):
    return parse_config(Path(repository.models, name, "config.pbtxt").read_text())


class Asker:
    """A served model behind the double, asked by the configuration of a domain's ensemble."""

    def __init__(self, repository):
        self.repository, self.pb_utils = repository, triton_double.pb_utils()
        file = os.path.join(repository.models, RUNTIME, "1", "model.py")
        args = {"model_config": json.dumps(config_of(repository, RUNTIME)), "model_name": RUNTIME}
        self.model = ServedModel(self.pb_utils, args, file)

    def request(self, name, tensors, **parameters):
        step = config_of(self.repository, name)["ensemble_scheduling"]["step"][0]
        return InferenceRequest(tensors, step["output_map"], parameters), step["output_map"]

    def ask(self, *asked):
        """asked: (domain, inputs, parameters) each; gives {output: its value}, or what is wrong, for each."""
        made = [self.request(name, tensors, **parameters) for name, tensors, parameters in asked]
        responses = self.model.execute([request for request, _ in made])
        return [
            response.error().message()
            if response.has_error()
            else {output_map[name]: value for name, value in response.outputs().items()}
            for response, (_, output_map) in zip(responses, made, strict=True)
        ]


@pytest.fixture
def asker(packed):
    made = Asker(packed)
    yield made
    made.model.close()


def pictures(count, seed=0):
    """uint8 (count, 20, 24, 3)."""
    random = np.random.RandomState(seed)
    return (random.randint(0, 200, (count, 1, 1, 3)) + random.randint(0, 56, (count, 20, 24, 3))).astype(np.uint8)


def encoded(images):
    """PNG files as Triton gives a BYTES tensor: object (B, 1)."""
    found = np.empty((len(images), 1), np.object_)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        found[i, 0] = file.getvalue()
    return found


def expect(answer, predictions, top_k=1):
    assert isinstance(answer, dict), answer
    for i, one in enumerate(predictions):
        best = one.top_k(top_k)
        assert [label.decode() for label in answer["label"][i]] == [label for label, _ in best]
        assert [one.classes[n] for n in answer["index"][i]] == [label for label, _ in best]
        np.testing.assert_allclose(answer["probability"][i], [p for _, p in best], atol=1e-6)
        np.testing.assert_allclose(answer["probabilities"][i], one.probabilities, atol=1e-6)
        np.testing.assert_allclose(answer["logits"][i], one.logits, atol=1e-5)
        assert answer["exit"][i] == [-1 if one.exit is None else one.exit]
        assert answer["blocks_skipped"][i] == [one.blocks_skipped]
        assert answer["flops_share"][i] == pytest.approx(one.flops_share)


# -- numbers


def test_every_number_is_asked_for_by_names_of_its_own():
    numbers = [*range(300), BASE**2 - 1, BASE**2, MOST - 1]
    asked = [tuple(asked_names(n).values()) for n in numbers]
    assert len(set(asked)) == len(numbers)
    assert [asked_number((*names, "logits")) for names in asked] == numbers


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        ("logits",),
        ("label_1", "probability_2"),
        ("label_1", "label_2", "probability_1", "exit_1"),
        ("label_1", "probability_2", f"exit_{BASE}"),
        ("label_1", "probability_2", "exit_x"),
    ],
)
def test_what_no_ensemble_asks_for_is_no_number(outputs):
    assert asked_number(outputs) is None


# -- the repository


def test_what_is_written(packed, source, tmp_path):
    assert packed.domains == sorted(NAMES)
    assert sorted(os.listdir(packed.models)) == sorted((*NAMES, RUNTIME)), "Triton takes every folder for a model"
    shared = config_of(packed, RUNTIME)
    assert shared["backend"] == "python" and shared["dynamic_batching"] == {}
    assert shared["parameters"]["threads"] == {"string_value": "1"} and "precision" not in shared["parameters"]
    outputs = {one["name"]: one for one in shared["output"]}
    assert set(outputs) == {t.name for t in OUTPUTS + FAMILIAR_OUTPUTS if t.name not in CARRIERS} | {
        f"{carrier}_{digit}" for carrier in CARRIERS for digit in range(BASE)
    }
    seen = []
    for name in NAMES:
        config = config_of(packed, name)
        wanted = ALL + (("known", "familiarity") if name == "signs" else ())
        assert config["name"] == name and config["platform"] == "ensemble"
        (step,) = config["ensemble_scheduling"]["step"]
        assert step["model_name"] == RUNTIME and tuple(step["output_map"].values()) == wanted
        assert [one["name"] for one in config["output"]] == list(wanted)
        for given, own in step["output_map"].items():  # as Triton compares an ensemble with the models of its steps
            one = next(o for o in config["output"] if o["name"] == own)
            assert one["data_type"] == outputs[given]["data_type"] and len(one["dims"]) == len(outputs[given]["dims"])
        number = number_of(packed, name)["number"]
        assert asked_number(step["output_map"]) == number
        pack = Path(packed.store, "packs", f"{number}.da3")
        assert pack.read_bytes() == Path(write_pack(source, name, tmp_path / "x")).read_bytes()
        classes = Path(packed.models, name, "labels.txt").read_text().splitlines()
        assert tuple(classes) == read_pack(pack).classes
        seen.append(number)
    assert len(set(seen)) == len(NAMES)
    with Runtime(packed.bundle, backend="reference") as runtime:
        assert runtime.domains == []


def test_what_is_there_already_stays_untouched(packed, source):
    """Triton would load it again."""

    def times():
        found = Path(packed.models).rglob("*")
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}

    before = times()
    packed.write_runtime(source, packed.settings, PYZ)
    assert [packed.put(name, source).done for name in NAMES] == ["unchanged"] * 2
    assert times() == before
    assert len(os.listdir(os.path.join(packed.store, "packs"))) == 2


def test_a_replaced_domain_has_another_number_and_the_one_before_stays_for_a_while(repository, tmp_path):
    numbers, packs = [], os.path.join(repository.store, "packs")
    others = set(os.listdir(packs))
    for seed in range(4):
        done = repository.put(pack_of(tmp_path / str(seed), "moss", seed)).done
        assert done == ("replaced" if seed else "added")
        numbers.append(number_of(repository, "moss")["number"])
        expected = {f"{number}.da3" for number in numbers[-2:]}
        assert set(os.listdir(packs)) - others == expected
        assert number_of(repository, "moss")["before"] == (numbers[-2] if seed else None)
        assert (
            asked_number(config_of(repository, "moss")["ensemble_scheduling"]["step"][0]["output_map"]) == numbers[-1]
        )
    repository.remove("moss")
    assert set(os.listdir(packs)) == others and "moss" not in repository.domains
    repository.put(tmp_path / "0")
    assert number_of(repository, "moss")["number"] not in numbers, "a server may have the domain that had it"


def test_triton_finds_nothing_that_is_in_writing(repository, source, tmp_path, monkeypatch):
    """It takes every folder beside the models for one."""
    seen, write_files = [], placing.write_files

    def watched(folder, files):
        write_files(folder, files)
        seen.append(sorted(os.listdir(repository.models)))

    monkeypatch.setattr(placing, "write_files", watched)
    repository.put(pack_of(tmp_path / "moss", "moss", 1))
    repository.put(pack_of(tmp_path / "other", "moss", 2))
    assert seen == [sorted((*NAMES, RUNTIME)), sorted((*NAMES, RUNTIME, "moss"))]


def test_a_zipped_bundle_does_as_well(packed, source, tmp_path):
    zipped = shutil.make_archive(str(tmp_path / "zipped"), "zip", source)
    made = packed_into(tmp_path / "repository", zipped)
    assert files_of(made.models) == files_of(packed.models)
    assert files_of(made.bundle) == files_of(packed.bundle)


def test_other_settings_and_another_runtime(repository, source):
    before = config_of(repository, RUNTIME)
    repository.write_runtime(None, repository.settings._replace(batch_size=3), PYZ)
    after = config_of(repository, RUNTIME)
    assert before != after and after["parameters"]["batch_size"] == {"string_value": "3"}
    assert repository.settings == SETTINGS._replace(batch_size=3)
    repository.write_runtime(None, repository.settings, b"another")
    assert Path(repository.models, RUNTIME, "1", "run_engine.pyz").read_bytes() == b"another"
    assert repository.domains == sorted(NAMES)


def test_another_bundle_of_the_same_backbone_takes_the_place(repository, source, tmp_path):
    before = config_of(repository, RUNTIME)["parameters"]["bundle"]
    other = shutil.copytree(source, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(dict(manifest, created_by="another")))
    repository.write_runtime(other, repository.settings, PYZ)
    assert config_of(repository, RUNTIME)["parameters"]["bundle"] != before
    manifest["backbone"]["sha256"] = "c" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    was = files_of(repository.path)
    with pytest.raises(DomainError, match="backbone"):
        repository.write_runtime(other, repository.settings, PYZ)
    assert files_of(repository.path) == was


def test_what_does_not_belong_into_a_repository_is_refused(repository, source, tmp_path):
    other = pack_of(tmp_path / "other", "moss", 1)
    described = json.loads((other / "domain.json").read_text())
    (other / "domain.json").write_text(json.dumps(dict(described, backbone_sha256="c" * 64)))
    damaged = pack_of(tmp_path / "damaged", "moss", 1)
    (damaged / "weights.safetensors").write_bytes(b"")
    half = tmp_path / "half.da3"
    half.write_bytes(Path(write_pack(source, "flowers", tmp_path / "whole.da3")).read_bytes()[:-200])
    Path(repository.models, "resnet", "1").mkdir(parents=True)
    Path(repository.models, "resnet", "config.pbtxt").write_text('name: "resnet"')
    was = files_of(repository.path)
    for pack, words in (
        (other, "backbone"),
        (damaged, "bytes"),
        (half, "zip|whole|copy"),
        (tmp_path / "none.da3", "no domain pack at"),
        (pack_of(tmp_path / "mine", RUNTIME, 1), "the runtime's own name"),
        (pack_of(tmp_path / "theirs", "resnet", 1), "did not write"),
    ):
        with pytest.raises(Da3Error, match=words):
            repository.put(pack)
        assert files_of(repository.path) == was, pack
    with pytest.raises(DomainError, match="unknown domain 'moss'.*flowers, signs"):
        repository.put("moss", source)
    with pytest.raises(DomainError, match="unknown domain 'resnet'"):
        repository.remove("resnet")
    with pytest.raises(BundleError, match="no repository"):
        Repository(tmp_path / "nowhere").put("flowers", source)
    with pytest.raises(BundleError, match="name the bundle"):
        Repository(tmp_path / "nowhere").write_runtime(None, SETTINGS, PYZ)
    assert not (tmp_path / "nowhere").exists()
    assert files_of(repository.path) == was


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ('{"format": 9}', "newer da3"),
        ('{"format": 1, "next": -1, "settings": {}}', "negative"),
        ('{"format": 1, "next": 1, "settings": {"backend": 3}}', "backend must be a string"),
    ],
)
def test_a_damaged_description_is_said_in_a_line(repository, source, content, words):
    Path(repository.store, "repository.json").write_text(content)
    with pytest.raises(BundleError, match=words):
        repository.put("flowers", source)


def test_what_a_killed_process_left_is_put_back_or_removed(repository, source):
    """As where two folders cannot change places in one step."""
    os.rename(os.path.join(repository.models, "flowers"), os.path.join(repository.store, "_replaced-flowers"))
    Path(repository.store, ".adding-0123abcd", "signs").mkdir(parents=True)
    Path(repository.store, "packs", "99.da3").write_bytes(b"of a domain that was never put")
    repository.write_runtime(None, repository.settings, PYZ)
    assert len(os.listdir(os.path.join(repository.store, "packs"))) == 2
    assert repository.domains == sorted(NAMES)
    assert sorted(os.listdir(repository.store)) == ["bundle", "packs", "repository.json"]


# -- the model


@pytest.mark.parametrize("as_files", [False, True])
def test_answers_are_those_of_the_runtime(asker, source, as_files):
    given = pictures(7)
    tensors = {"picture": encoded(given)} if as_files else {"pixels": given}
    with Runtime(source, threads=1) as runtime:
        expected = {name: runtime.run(given, domain=name) for name in NAMES}
    answers = asker.ask(*((name, tensors, {"top_k": 2}) for name in NAMES))
    for name, answer in zip(NAMES, answers, strict=True):
        expect(answer, expected[name], 2)
    assert len({one.exit for one in expected["flowers"]}) > 1
    assert "known" not in answers[0]
    assert [bool(known) for known in answers[1]["known"]] == [one.known for one in expected["signs"]]
    alike = [one.familiarity for one in expected["signs"]]
    np.testing.assert_allclose(answers[1]["familiarity"][:, 0], alike, atol=1e-6)
    for name in ("index", "exit", "blocks_skipped"):
        assert answers[0][name].dtype == np.int32
    for name in ("probability", "probabilities", "logits", "flops_share"):
        assert answers[0][name].dtype == np.float32


def test_requests_of_one_domain_are_run_together(asker, source, monkeypatch):
    runs = []
    run_batch = Runtime.run_batch
    monkeypatch.setattr(
        Runtime, "run_batch", lambda self, images, *a, **k: runs.append(len(images)) or run_batch(self, images, *a, **k)
    )
    given = pictures(11)
    asked = [(NAMES[i % 2], {"pixels": given[i : i + 1]}, {}) for i in range(11)]
    asked += [("flowers", {"pixels": given[:5]}, {}), ("flowers", {"pixels": given[:2]}, {"force_all_blocks": True})]
    answers = asker.ask(*asked)
    assert runs == [8, 3, 5, 2]  # 6 + 5 of flowers, 5 of signs, and 2 that run otherwise
    with Runtime(source, threads=1) as runtime:
        for (name, tensors, options), answer in zip(asked, answers, strict=True):
            expect(answer, runtime.run(tensors["pixels"], domain=name, **options))


@pytest.mark.parametrize("options", [{"force_all_blocks": True}, {"leave_at": 0}, {"leave_at": "1"}])
def test_parameters(asker, source, options):
    given = pictures(4)
    said = {key: int(value) if isinstance(value, str) else value for key, value in options.items()}
    with Runtime(source, threads=1) as runtime:
        expected = runtime.run(given, domain="flowers", **said)
    expect(asker.ask(("flowers", {"pixels": given}, dict(options, theirs="x")))[0], expected)


def test_what_counts_as_unknown_is_said_with_a_request(asker):
    given = pictures(4)
    none, all_ = asker.ask(*(("signs", {"pixels": given}, {"unknown_below": limit}) for limit in (0.0, "1.0")))
    assert none["known"].all() and not all_["known"].any()


BROKEN = np.array([[b"\x89PNG\r\n\x1a\nno more"]], np.object_)


@pytest.mark.parametrize(
    ("tensors", "parameters", "words"),
    [
        ({"picture": BROKEN}, {}, "picture 0 of the request: the picture is not a readable picture"),
        ({"picture": np.array([[b""]], np.object_)}, {}, "is empty"),
        ({"picture": np.array([["text"]], np.object_)}, {}, "must be bytes"),
        ({}, {}, "not neither"),
        ({"picture": BROKEN, "pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {}, "not both"),
        ({"pixels": np.zeros((1, 2, 3), np.uint8)}, {}, r"expected pixels of shape \(B, H, W, 3\)"),
        ({"pixels": np.zeros((1, 2, 2, 4), np.uint8)}, {}, "expected pixels"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.float32)}, {}, "expected pixels"),
        ({"pixels": np.zeros((0, 2, 2, 3), np.uint8)}, {}, "expected pixels"),
        ({"pixels": np.zeros((65, 1, 1, 3), np.uint8)}, {}, "1 to 64 pictures, not 65"),
        ({"pixels": np.zeros((1, 1 << 14, 1 << 14, 3), np.bool_).view(np.uint8)}, {}, "too large"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"top_k": True}, "top_k"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"top_k": 1.5}, "top_k"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"top_k": "NaN"}, "top_k must"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"leave_at": "Infinity"}, "leave_at must"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"unknown_below": -0.5}, "from 0 to 1"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"leave_at": -1}, "leave_at"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"leave_at": 2}, "of domain flowers can leave at exit 2"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"force_all_blocks": 1}, "true or false"),
        ({"pixels": np.zeros((1, 2, 2, 3), np.uint8)}, {"unknown_below": "NaN"}, "from 0 to 1"),
    ],
)
def test_bad_requests_fail_alone_and_in_a_line(asker, source, tensors, parameters, words):
    given = pictures(2)
    before, wrong, after = asker.ask(
        ("flowers", {"pixels": given}, {}), ("flowers", tensors, parameters), ("flowers", {"pixels": given}, {})
    )
    assert isinstance(wrong, str) and re.search(words, wrong) and "\n" not in wrong
    with Runtime(source, threads=1) as runtime:
        for answer in (before, after):
            expect(answer, runtime.run(given, domain="flowers"))


def test_one_broken_picture_of_several(asker):
    files = encoded(pictures(3))
    files[1, 0] = BROKEN[0, 0]
    (wrong,) = asker.ask(("flowers", {"picture": files}, {}))
    assert wrong.startswith("picture 1 of the request:")


def test_who_asks_for_the_runtime_itself_is_told(asker):
    (response,) = asker.model.execute([InferenceRequest({"pixels": pictures(1)}, ["logits"])])
    assert "ask for a domain by its own name" in response.error().message()


def test_what_nobody_thought_of_does_not_end_the_process(asker, monkeypatch):
    """Nor does it harm other domains that are asked at the same time."""
    run_batch, name_of = Runtime.run_batch, {name: number_of(asker.repository, name)["number"] for name in NAMES}

    def fail(self, images, domain, **options):
        if domain == f"number-{name_of['flowers']}":
            raise ZeroDivisionError("never")
        return run_batch(self, images, domain, **options)

    monkeypatch.setattr(Runtime, "run_batch", fail)
    wrong, other = asker.ask(*((name, {"pixels": pictures(1)}, {}) for name in NAMES))
    assert "see Triton's log" in wrong and "ZeroDivisionError" in asker.pb_utils.Logger.lines[0]
    assert isinstance(other, dict)
    monkeypatch.undo()
    (answer,) = asker.ask(("flowers", {"pixels": pictures(1)}, {}))
    assert isinstance(answer, dict)


def test_whose_fault_it_was_is_in_the_code(asker, monkeypatch):
    requests = [asker.request("flowers", {"pixels": pictures(1)}, **p)[0] for p in ({"top_k": 0}, {"leave_at": 9}, {})]
    monkeypatch.setattr(Runtime, "predictions", lambda *a: 1 / 0)
    kinds = triton_double.TritonError
    codes = [response.error().code() for response in asker.model.execute(requests)]
    assert codes == [kinds.INVALID_ARG, kinds.INVALID_ARG, kinds.INTERNAL]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(
    st.dictionaries(st.sampled_from(("top_k", "leave_at", "force_all_blocks", "unknown_below", "x")), ANYTHING)
    | ANYTHING
)
def test_parameters_of_any_kind_are_taken_or_refused_in_a_line(parameters):
    request = InferenceRequest({"pixels": pictures(1)}, asked_names(0).values())
    request._parameters = json.dumps(parameters)
    try:
        asked = read_request(request, triton_double.pb_utils())
    except ImageError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        assert asked.top_k >= 1 and isinstance(asked.options.force_all_blocks, bool)
        assert asked.options.leave_at is None or asked.options.leave_at >= 0
        assert asked.options.unknown_below is None or 0 <= asked.options.unknown_below <= 1


def test_counters(asker, source):
    given = pictures(7)
    with Runtime(source, threads=1) as runtime:
        expected = runtime.run(given, domain="flowers")
    asker.ask(
        ("flowers", {"pixels": given[:3]}, {}),
        ("flowers", {"pixels": given[3:]}, {}),
        ("flowers", {"picture": BROKEN}, {}),
    )
    asker.ask(("signs", {"pixels": given}, {}))
    found = triton_double.counters(asker.pb_utils)
    assert found["da3_pictures_total", "flowers"] == found["da3_pictures_total", "signs"] == 7
    assert found["da3_blocks_total", "flowers"] == 7 * 3
    assert found["da3_blocks_skipped_total", "flowers"] == sum(one.blocks_skipped for one in expected) > 0
    assert found["da3_pictures_left_early_total", "flowers"] == sum(one.exit is not None for one in expected) > 0
    assert found["da3_blocks_skipped_total", "signs"] == 0
    assert found["da3_pictures_refused_total", "flowers"] == 1


def test_domains_that_memory_has_no_room_for_are_read_again(repository, source, tmp_path):
    for seed in range(5):
        repository.put(pack_of(tmp_path / str(seed), f"moss-{seed}", seed))
    repository.write_runtime(None, repository.settings._replace(domains_held=2), PYZ)
    asker = Asker(repository)
    given = pictures(2)
    order = [f"moss-{i}" for i in (0, 1, 3, 0, 2, 4, 2)]

    def held(*names):
        return sorted(f"number-{number_of(repository, name)['number']}" for name in names)

    with Runtime(source, threads=1) as runtime:
        for seed in range(5):
            runtime.load(tmp_path / str(seed))
        for answer, name in zip(asker.ask(*((name, {"pixels": given}, {}) for name in order)), order, strict=True):
            expect(answer, runtime.run(given, domain=name))
    assert asker.model._runtime.loaded == held("moss-2", "moss-4"), "those that were asked last"
    for name in ("moss-2", "moss-0"):
        asker.ask((name, {"pixels": given}, {}))
    assert asker.model._runtime.loaded == held("moss-0", "moss-2")
    asker.model.close()


def test_a_server_goes_on_with_the_domain_that_it_has_until_it_loads_another(repository, source, tmp_path):
    one, other = (pack_of(tmp_path / str(seed), "moss", seed) for seed in (1, 2))
    repository.put(one)
    asker, given = Asker(repository), pictures(2)
    old, _ = asker.request("moss", {"pixels": given})
    repository.put(other)  # the pack before is read after it was replaced
    (answer,) = asker.model.execute([old])
    (new,) = asker.ask(("moss", {"pixels": given}, {}))
    with Runtime(source, threads=1) as runtime:
        for folder, logits in ((one, answer.outputs()["logits"]), (other, new["logits"])):
            runtime.load(folder)
            np.testing.assert_allclose(logits, [p.logits for p in runtime.run(given, domain="moss")], atol=1e-5)
    repository.remove("moss")
    (left,) = asker.model.execute([old])
    assert not left.has_error(), "it is in memory"
    fresh = Asker(repository)
    (gone,) = fresh.model.execute([old])
    assert "removed or replaced" in gone.error().message()
    asker.model.close()
    fresh.model.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, r: delattr(a, "MetricFamily"), "older than 23.10"),
        (lambda a, r: setattr(a, "InferenceRequest", object), "older than 23.10"),
        (lambda a, r: shutil.rmtree(r.store), "no folder store beside models/"),
        (lambda a, r: shutil.rmtree(r.bundle), "no bundle at"),
        (lambda a, r: os.remove(os.path.join(r.bundle, "backbone", "stem.onnx")), "stem.onnx is missing"),
    ],
)
def test_what_the_model_cannot_start_without_is_said_in_a_line(repository, change, words):
    module = triton_double.pb_utils()
    args = {"model_config": json.dumps(config_of(repository, RUNTIME)), "model_name": RUNTIME}
    change(module, repository)
    with pytest.raises(module.TritonModelException, match=words) as found:
        ServedModel(module, args, os.path.join(repository.models, RUNTIME, "1", "model.py"))
    assert "\n" not in str(found.value)


def test_a_configuration_that_is_not_ours_is_refused(packed):
    for parameters in ({}, {"format": {"string_value": "1"}, "threads": {"string_value": "many"}}):
        module = triton_double.pb_utils()
        args = {"model_config": json.dumps({"parameters": parameters}), "model_name": RUNTIME}
        with pytest.raises(module.TritonModelException, match=r"not written by this da3|threads must be"):
            ServedModel(module, args, os.path.join(packed.models, RUNTIME, "1", "model.py"))


def test_pictures_are_decoded_as_files_are(tmp_path, runtime):
    path = tmp_path / "photo.jpg"
    Image.fromarray(pictures(1)[0]).resize((300, 200)).save(path, quality=90)
    prep = runtime.preprocessing
    np.testing.assert_array_equal(preprocessed(path.read_bytes(), prep), prep.load(path))


# -- the command, and what it writes


def test_the_command(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("da3.runtime.app.pack.run_engine", lambda: PYZ)
    repository = Repository(tmp_path / "repository")
    call = ["pack", "--triton", repository.path]
    assert main([*call, "--bundle", str(source), "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "added flowers" in said and f"--model-repository={repository.models}" in said
    pack = write_pack(source, "signs", tmp_path / "signs.da3")
    assert main([*call, "--domain", pack, "--batch-size", "4"]) == 0
    assert "unchanged signs" in capsys.readouterr().out
    assert repository.settings == Settings(threads=1, batch_size=4)
    assert main([*call, "--remove", "signs"]) == 0
    assert repository.domains == ["flowers"]
    assert main([*call, "--domain", "moss", "--bundle", str(source)]) == 1
    assert "unknown domain 'moss'" in capsys.readouterr().err
    other = ["pack", "--triton", str(tmp_path / "other")]
    assert main([*other, "--domain", "moss", "--bundle", str(source)]) == 1 and not (tmp_path / "other").exists()
    capsys.readouterr()
    assert main([*other, "--bundle", str(tmp_path / "none")]) == 1
    assert "no bundle at" in capsys.readouterr().err and not (tmp_path / "other").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["pack"])


def test_what_triton_imports_runs_the_runtime_that_lies_beside_it(source, tmp_path):
    """In a process that has no da3 but the repository's."""
    assert main(["pack", "--triton", str(tmp_path / "repository"), "--bundle", str(source), "--threads", "1"]) == 0
    folder = Path(tmp_path, "repository", "models", RUNTIME, "1")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_of(Repository(tmp_path / "repository"), RUNTIME)))
    code = """
import json, sys
sys.path[:0] = [{double!r}, {folder!r}]
import triton_double
sys.modules["triton_python_backend_utils"] = pb_utils = triton_double.pb_utils()
import model, numpy as np
served = model.TritonPythonModel()
served.initialize({{"model_config": open({config!r}).read(), "model_name": "da3_runtime"}})
asked = ["label_0", "probability_0", "exit_0"]
request = pb_utils.InferenceRequest({{"pixels": np.zeros((1, 8, 8, 3), np.uint8)}}, asked)
(answer,) = served.execute([request])
served.finalize()
import da3.runtime
print(json.dumps([da3.runtime.__file__, sorted(answer.outputs())]))
"""
    text = code.format(double=str(Path(__file__).parent), folder=str(folder), config=str(config))
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, outputs = json.loads(done.stdout)
    assert where.startswith(str(folder / "run_engine.pyz"))
    assert outputs == ["exit_0", "label_0", "probability_0"]
    assert not (folder / "__pycache__").is_dir(), "Triton would take it for a change"
