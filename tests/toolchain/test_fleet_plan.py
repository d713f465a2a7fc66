"""fleet.yaml: what it means, and that whatever is wrong in it is said in one line, before anything starts."""

import pytest

from da3.toolchain.errors import FleetError
from da3.toolchain.fleet import of_domains, read_plan
from da3.toolchain.fleet.reading import LIMIT, Said, read_yaml

pytest.importorskip("yaml", reason="pip install 'da3[ray]'")

GOOD = """
out: results
defaults:
  data: photos/{domain}
  epochs: 12
  lr: 4e-3
  cpus: 2
  memory: 1GiB
domains:
  flowers:
  no:
    flip: false
    batch_size: 8
    data: s3://bucket/a:b@x/photos
    keep: 0.7
    micro-batch: auto
    from: packs/old.da3
    method: da3
"""


@pytest.fixture
def plan(tmp_path):
    def read(text, **others):
        (tmp_path / "fleet.yaml").write_text(text, **others)
        return read_plan(str(tmp_path / "fleet.yaml"), "da3 fleet train fleet.yaml")

    return read


def test_a_fleet_is_read(plan, tmp_path):
    found = plan(GOOD)
    flowers, no = found.jobs
    assert (found.out, found.runs) == (str(tmp_path / "results"), str(tmp_path / "results" / "runs"))
    assert flowers.options == {
        "domain": "flowers",
        "data": str(tmp_path / "photos" / "flowers"),
        "epochs": 12,
        "lr": 4e-3,
        "device": "cpu",
        "workers": 2,
        "command": "da3 fleet train fleet.yaml",
    }
    assert (flowers.cpus, flowers.gpus, flowers.memory) == (2, 0.0, 2**30)
    assert flowers.pack == str(tmp_path / "results" / "packs" / "flowers.da3")
    assert no.name == no.domain == "no", "a name is a name, not YAML 1.1's word for false"
    assert no.options["flip"] is False and no.options["batch_size"] == 8 and no.options["micro_batch"] == 0
    assert no.options["data"] == "s3://bucket/a:b@x/photos" and no.options["start"] == str(tmp_path / "packs/old.da3")
    assert [job.name for job in of_domains(found, ["no"]).jobs] == ["no"]
    with pytest.raises(FleetError, match="--domain flower: no such domain .* did you mean flowers"):
        of_domains(found, ["flower"])


def test_a_domain_on_a_gpu_is_trained_there(plan):
    (job,) = plan("out: o\ndomains:\n  a:\n    data: x\n    gpus: 0.5").jobs
    assert (job.gpus, job.options["device"]) == (0.5, "cuda")


def test_baselines_have_no_pack_and_results_may_be_at_a_uri(plan):
    (job,) = plan("out: gs://bucket/out/\ndomains:\n  a:\n    data: x\n    method: linear").jobs
    assert job.pack is None and job.runs == "gs://bucket/out/runs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out: o\ndomain:\n  a:\n    data: x", "line 2: domain is nothing of a fleet: did you mean domains"),
        ("domains:\n  a:\n    data: x", "has no line `out:`"),
        ("out: o", "has no domains"),
        ("out: o\ndomains:", "has no domains"),
        (
            "out: o\ndomains:\n  a:\n    data: x\n    epoch: 3",
            "domain a: line 5: epoch is no option: did you mean epochs",
        ),
        ("out: o\ndefaults:\n  epoch: 3\ndomains:\n  a:", "defaults: line 3: epoch is no option"),
        ("out: o\ndomains:\n  a:\n    data: x\n    epochs: many", "domain a: line 5: epochs must be a whole number"),
        ("out: o\ndomains:\n  a:\n    data: x\n    epochs: 0", "domain a: --epochs 0: must be between 1 and"),
        ("out: o\ndomains:\n  a:\n    data: x\n    flip: no", "line 5: flip must be true or false, not 'no'"),
        ("out: o\ndomains:\n  a:\n    data: x\n    memory: lots", "line 5: memory lots: use a size such as 256MB"),
        ("out: o\ndomains:\n  a:\n    data: x\n    cpus: 0", "domain a: cpus 0: must be between 1 and"),
        ("out: o\ndomains:\n  a:\n    data: x\n    gpus: 2", "domain a: gpus 2: a domain is trained on one GPU"),
        ("out: o\ndomains:\n  a:\n    data: x\n    gpus: nan", "domain a: gpus nan"),
        ("out: o\ndomains:\n  a:\n    data: x\n    device: cuda", "device cuda with gpus 0: write gpus: 1"),
        (
            "out: o\ndomains:\n  a:\n    data: x\n    engine: onnxruntime\n    gpus: 1",
            "learns on the CPU; leave gpus out",
        ),
        ("out: o\ndomains:\n  a:\n    data: x\n    engine: caffe", "engine caffe: use pytorch or onnxruntime"),
        (
            "out: o\ndomains:\n  a:\n    data: x\n    engine: onnxruntime\n    gradient: skip-path",
            "leave --gradient out",
        ),
        ("out: o\ndomains:\n  a:\n    data: x\n    method: magic", "domain a: .*magic"),
        ("out: o\ndomains:\n  a:\n    data: x\n    resume: true", "resume is no option here: what is begun is gone on"),
        ("out: o\ndomains:\n  a:\n    data: x\n    from: roses", "from roses: name a file or folder by a path"),
        ("out: o\ndomains:\n  a:\n    data: x\n    size: 50", "domain a: --size 50: use a multiple of 32"),
        (
            "out: o\ndomains:\n  a:\n    data: x\n    batch-size: 4\n    batch_size: 8",
            "line 6: batch-size is there twice",
        ),
        ("out: o\ndomains:\n  a:\n    data:", "data has no value"),
        ("out: o\ndomains:\n  a:\n    epochs: 3", "domain a: has no data"),
        ("out: o\ndomains:\n  a: x", "domain a: line 3: must have lines `option: value`"),
        ("out: o\ndomains:\n  a:\n    data: x\n  a:\n    data: y", "line 5: 'a' is there twice, first in line 3"),
        ("out: o\ndomains:\n  a:\n    data: x\n  A:\n    data: y", "line 5: A and a differ in capitals alone"),
        ("out: o\ndomains:\n  backbones:\n    data: x", "line 3: .*not the name 'backbones'"),
        ("out: o\ndomains:\n  ../a:\n    data: x", "line 3: .*use letters, digits"),
        ("out: o\ncache: here\ndomains:\n  a:\n    data: x", "cache here: must be a folder on each node"),
        ("out:\n  a: b\ndomains:\n  a:\n    data: x", "line 1: out must be a path or a URI"),
        ("out: o\ndomains: [a, b]", "line 2: 'domains' is a list"),
        ("- a", "must have lines such as"),
        ("", "must have lines such as"),
        ("out: o\n  x: y: z", "line 2: is no YAML"),
        ("out: &a o\ncache: *a", "line 2: aliases"),
        ("out: {a: {b: {c: {d: {e: {f: {g: {h: {i: j}}}}}}}}}", "line 1: more than 8 mappings or lists in each other"),
        ("[" * 100000, "line 1: (is no YAML|more than 8 mappings)"),
        ("out: !!python/object/apply:os.system [true]", "is a list"),
        ("? [a, b]\n: c", "each line must be `name: value`"),
        ("x" * (LIMIT + 1), "cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(text, message, plan):
    with pytest.raises(FleetError, match=message) as raised:
        plan(text)
    assert "\n" not in str(raised.value) and "fleet.yaml" in str(raised.value)


def test_a_file_that_is_no_text_or_not_there(plan, tmp_path):
    (tmp_path / "fleet.yaml").write_bytes(b"out: \xff")
    with pytest.raises(FleetError, match="no text in UTF-8"):
        read_plan(str(tmp_path / "fleet.yaml"))
    with pytest.raises(FleetError, match="No such file"):
        read_plan(str(tmp_path / "none.yaml"))


def test_values_are_texts_with_their_lines(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 010\nb: 1:30\nc: '~'\nd: ~\ne:\n  f: yes\n")
    found = read_yaml(str(tmp_path / "x.yaml"))
    assert found == {
        "a": Said("010", 1),
        "b": Said("1:30", 2),
        "c": Said("~", 3),
        "d": Said(None, 4),
        "e": Said({"f": Said("yes", 6)}, 5),
    }
