"""Damaged files end in the right answer or in one clear line: some cases of every kind, and all that ever did not."""

from pathlib import Path

import pytest
from pythons import VERSION, candidates, works

from fuzz import bases
from fuzz.campaign import Campaign
from fuzz.child import case as cases
from fuzz.child.running import TOOLCHAIN
from fuzz.judging import ANSWER, DEFECT, ERROR, judge
from fuzz.servers import Servers
from fuzz.subjects import all_subjects, arrays, bundles, checkpoints, packs, photos, registries, tables

FOUND = Path(__file__).parent / "found"
SEED = 20261126
# Importing PyTorch takes as long as most of the rest here.
WITH_PYTORCH = ("weights", "options", "checkpoint", "command line: PyTorch", "fleet")
# A domain of format 1 is none to start from.
REFUSED = {("gated", "starting")}


@pytest.fixture(scope="module")
def servers():
    with Servers() as started:
        yield started


def told(campaign):
    """The defects, as `python -m fuzz` lists them."""
    return [f"{d.case.subject}: {d.name}: {d.case.what} {d.case.words}\n{d.text}" for d in campaign.defects.values()]


def planted(*words, what="planted"):
    return cases.case("planted", what, "exits", "planted", words)


@pytest.mark.parametrize("subject", [s for s in all_subjects() if s.name not in WITH_PYTORCH], ids=lambda s: s.name)
def test_damage_is_answered_or_refused_in_a_line(servers, subject):
    campaign = Campaign(servers)
    campaign.run(subject, 2 + subject.share, SEED)
    assert told(campaign) == [], f"seed {SEED}"


@pytest.mark.slow
@pytest.mark.parametrize("subject", all_subjects(), ids=lambda s: s.name)
def test_more_damage(servers, subject):
    campaign = Campaign(servers)
    campaign.run(subject, 25 * subject.share, SEED + 1)
    assert told(campaign) == [], f"seed {SEED + 1}"


@pytest.mark.slow
def test_a_boards_python_and_numpy_do_as_well():
    """Python 3.6, numpy and Pillow of those days, and no ONNX Runtime."""
    found = [p for p in candidates() if p and works(p, VERSION) and works(p, "import numpy, PIL")]
    if not found:
        pytest.skip("no Python 3.6 with numpy and Pillow: put its path in DA3_PYTHON36")
    with Servers(found[0]) as old:
        campaign = Campaign(old)
        for subject in all_subjects():
            if subject.name not in (*WITH_PYTORCH, "stored graphs"):
                campaign.run(subject, 10 * subject.share, SEED + 2)
    assert told(campaign) == []
    assert campaign.total(ANSWER) > 100


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.case")), ids=lambda path: path.stem)
def test_what_was_found_stays_mended(servers, path):
    case = cases.from_bytes(path.read_bytes())
    if case.runner in TOOLCHAIN:
        pytest.skip("it is among those that need PyTorch")
    verdict = Campaign(servers).take(case)
    assert verdict.kind != DEFECT, f"{case.what}: {verdict.name}\n{verdict.text}"


@pytest.mark.slow
def test_what_was_found_of_pytorch_stays_mended(servers):
    campaign = Campaign(servers)
    for path in sorted(FOUND.glob("*.case")):
        case = cases.from_bytes(path.read_bytes())
        if case.runner in TOOLCHAIN:
            campaign.take(case)
    assert told(campaign) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["traceback"], "KeyError in child/running.py:_planted"),
        (["crash"], "crash, signal 11"),
        (["exit"], "crash, signal None"),
        (["memory"], "over 1 GB in planted"),
        (["half-written"], "AssertionError in child/running.py:_writing"),
        (["1", "error: one\ntwo\n"], "an error of several lines"),
        (["1", "error: one\nerror: two\n"], "several errors"),
        (["1", "one\n"], "exit code 1 without an error"),
        (["1", ""], "exit code 1 without an error"),
        (["1", "error: \x1b[2J\n"], "unprintable stderr"),
        (["1", "error: " + "x" * 500 + "\n"], "an error of over 500 characters"),
        (["0", "error: one\n"], "an error, and exit code 0"),
        (["0", "Warning\n"], "words on stderr: Warning"),
        (["0", "", "a\rb\n"], "unprintable stdout"),
        (["0", "", '{"flops_share": NaN}'], "no JSON on stdout"),
        (["0", "", '{"predictions": [{"probability": 1.5}]}'], "a probability that is none"),
        (["2", "one\ntwo\n"], "wrong usage"),
    ],
)
def test_a_defect_is_seen(servers, words, name):
    assert judge(planted(*words), servers.run(planted(*words)))[:2] == (DEFECT, name)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["0", ""], ANSWER),
        (["1", "skipped: x.png is empty\nerror: one\n"], ERROR),
        (["2", "usage: da3 [-h]\n            [-x]\nda3: error: no such option\n"], ERROR),
    ],
)
def test_what_is_no_defect(servers, words, kind):
    assert judge(planted(*words), servers.run(planted(*words))).kind == kind


@pytest.mark.parametrize("kind", ["hang", "waiting"])
def test_a_hang_is_seen_and_ended(servers, kind, monkeypatch):
    monkeypatch.setattr("fuzz.servers.MOST_SECONDS", 0.3)
    monkeypatch.setattr("fuzz.servers._AGAIN_SECONDS", 0.4)
    verdict = judge(planted(kind), servers.run(planted(kind)))
    assert verdict.kind == DEFECT and verdict.name.startswith("hang over")
    assert servers.run(planted("0", ""))["code"] == 0


def test_another_answer_is_a_defect_where_a_hash_should_have_been_seen(servers):
    changed = planted("changed")
    undamaged = servers.run(planted("0", ""))
    assert judge(changed, servers.run(changed), undamaged).kind == "other answer"
    sealed = judge(changed._replace(sealed=True), servers.run(changed), undamaged)
    assert sealed[:2] == (DEFECT, "another answer though a hash does not fit")


def undamaged():
    yield from (cases.case("undamaged", "", *use) for use in undamaged_uses())
    yield from registries.undamaged()


def undamaged_uses():
    """(base, runner, words) of all that is run on what is damaged, and must have an answer where it is not."""
    for base in ("gated", "exits"):
        yield from ((base, *use) for use in bundles.uses(base))
    yield from (("exits", *use) for use in (*packs.USES, *checkpoints.USES))
    yield from (("photos", "pictures", ("16", name)) for name in (*photos.names(), *arrays.NAMES[:3]))
    yield "exits", "command", (*photos.RUN, "photo.png")
    yield "exits", "labelled", ("list.csv", *tables.CLASSES)
    yield "exits", "command", (*tables.EVALUATE, "list.csv")
    yield "exits", "record", ("earlier.json",)
    yield "exits", "command", (*tables.EVALUATE, "photos", "--against", "earlier.json")
    yield "exits", "engines", ()


def test_what_is_not_damaged_is_answered(servers):
    """Else every refusal would be right, and nothing behind it ever read."""
    refused = {}
    for case in undamaged():
        base, runner, words = case.base, case.runner, tuple(case.words)
        if runner in TOOLCHAIN or (base, runner) in REFUSED or (base == "gated" and "int8" in words):
            continue
        verdict = judge(case, servers.run(case))
        if verdict.kind != ANSWER:
            refused[base, runner, words] = verdict
    assert refused == {}


def test_a_case_is_the_same_from_its_file():
    entries = [
        cases.file("a/\udcffb", b"\0\xff"),
        cases.Entry("c", cases.LINK, b"/dev/zero"),
        cases.Entry("d", cases.PIPE, b""),
    ]
    case = cases.case("bundle", "what \ud800", "gated", "command", ["-x", "é\udc80"], entries, b"in", True)
    data = cases.to_bytes(case)
    assert cases.from_bytes(data) == case and cases.to_bytes(cases.from_bytes(data)) == data


def test_a_seed_gives_the_same_cases_again(servers):
    class Taken(Campaign):
        def take(self, case):
            seen.append(cases.to_bytes(case))

    runs = []
    for seed in (1, 1, 2):
        seen = []
        for subject in all_subjects():
            Taken(servers).run(subject, 6, seed)
        runs.append(seen)
    assert runs[0] == runs[1] != runs[2] and len(set(runs[0])) > 0.8 * len(runs[0])


def test_bases_are_whole():
    for base in bases.NAMES:
        assert len(bases.files(base)) > 3, base
