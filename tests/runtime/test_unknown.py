"""Pictures that are none of a domain's: what every engine says of them, in a bundle, in packs and in the commands."""

import json
import shutil

import numpy as np
import pytest
from familiar_domains import own_images, with_familiar
from labelled_photos import write_labelled
from simulation import simulated
from synthetic_bundle import EXIT_WIDTH, Backbone, images, write_exits_bundle
from test_exits import medians, rules
from trt_answers import NEWEST, PYTHON

from da3.runtime import Runtime
from da3.runtime.app.commands import main
from da3.runtime.bundle import (
    Bundle,
    add_pack,
    parse_safetensors,
    read_domain,
    seen_values,
    update_domain,
    update_familiar,
    write_pack,
    write_safetensors,
)
from da3.runtime.errors import BundleError, DomainError
from da3.runtime.familiarity import area_under_curve
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines

BACKENDS = ("onnxruntime", "reference")
COUNT = 12
FILE = "domains/flowers/familiar.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(bundle, what the domain flowers takes its pictures for); the domain signs cannot tell."""
    folder = tmp_path_factory.mktemp("unknown") / "bundle"
    weights = write_exits_bundle(folder)
    update_domain(folder, "flowers", exits=rules(medians(Backbone().answers(mixed(), weights["flowers"]))))
    return folder, with_familiar(folder, "flowers")


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "bundle")


def mixed():
    """Pictures of its own and others in turn."""
    both = np.empty((COUNT, *images(1).shape[1:]), np.float32)
    both[::2], both[1::2] = own_images(COUNT // 2, 33), images(COUNT // 2, 34)
    return both


@pytest.fixture(scope="module")
def expected(made):
    """In numpy, one picture at a time."""
    with Runtime(made[0], backend="reference") as runtime:
        return [runtime.run(one[None], "flowers")[0] for one in mixed()]


def same(predictions, expected):
    assert [p.known for p in predictions] == [p.known for p in expected]
    assert [p.exit for p in predictions] == [p.exit for p in expected]
    np.testing.assert_allclose([p.familiarity for p in predictions], [p.familiarity for p in expected], atol=2e-3)


def test_the_expected_ones_tell_something(expected):
    assert {p.exit for p in expected} == {0, 1, None}, "pictures must leave everywhere for this to test anything"
    own, others = ([-p.familiarity for p in expected[first::2]] for first in (0, 1))
    assert area_under_curve(np.array(own), np.array(others)) > 0.8 and {p.known for p in expected} == {True, False}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 5, COUNT])
def test_every_backend_and_batch_says_the_same(made, expected, backend, batch):
    with Runtime(made[0], backend=backend) as runtime:
        same(runtime.run(mixed(), "flowers", batch_size=batch), expected)


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), (NEWEST, PYTHON)])
def test_tensorrt_says_the_same(made, expected, tmp_path, release, cuda):
    with simulated(tensorrt=release, cuda=cuda):
        build_engines(made[0], "fp32", (1, 4), engines=str(tmp_path))
        with Runtime(made[0], TensorRTBackend(str(tmp_path), "fp32")) as runtime:
            for batch in (1, 4, COUNT):
                same(runtime.run(mixed(), "flowers", batch_size=batch), expected)
            _, seen = runtime.features(mixed(), "flowers")
    with Runtime(made[0], backend="reference") as runtime:
        _, on_cpu = runtime.features(mixed(), "flowers")
    assert set(seen) == set(on_cpu) == {"e0", "e1", "features"}
    for name, array in seen.items():
        np.testing.assert_allclose(array, on_cpu[name], atol=1e-4)


def test_with_all_blocks_and_with_a_given_exit(made):
    with Runtime(made[0], backend="reference") as runtime:
        ends = runtime.run(mixed(), "flowers", force_all_blocks=True)
        first = runtime.run(mixed(), "flowers", leave_at=0)
    assert all(p.exit is None and p.known is not None for p in ends) and {p.exit for p in first} == {0}
    assert [p.familiarity for p in ends] != [p.familiarity for p in first]


def test_a_domain_that_cannot_tell_says_so(made):
    with Runtime(made[0], backend="onnxruntime") as runtime:
        result = runtime.run_batch(mixed(), "signs")
        assert result.seen == {}
        assert {(p.known, p.familiarity) for p in runtime.predictions(result)} == {(None, None)}


def test_another_share_of_false_alarms(made, expected):
    with Runtime(made[0], backend="reference") as runtime:
        assert all(p.known for p in runtime.run(mixed(), "flowers", unknown_below=0.0))
        for share in (0.05, 0.5):
            found = [p.known for p in runtime.run(mixed(), "flowers", unknown_below=share)]
            assert found == [p.familiarity >= share for p in expected]


# -- files


def test_it_is_read_as_it_was_written(made, bundle):
    with Bundle(bundle) as opened:
        found = read_domain(opened, "flowers").familiar
        assert read_domain(opened, "signs").familiar is None
    expected = made[1]
    assert found._replace(looks={}) == expected._replace(looks={})
    for name, look in expected.looks.items():
        assert (found.looks[name].centre, found.looks[name].scale) == (look.centre, look.scale)
        np.testing.assert_array_equal(found.looks[name].rows, look.rows)
        np.testing.assert_array_equal(found.looks[name].offsets, look.offsets)


def test_a_pack_carries_it(bundle, tmp_path):
    pack = write_pack(bundle, "flowers", tmp_path / "flowers.da3")
    data = (bundle / FILE).read_bytes()
    update_familiar(bundle, "flowers", None)
    assert not (bundle / FILE).exists()
    with Bundle(bundle) as opened:
        assert read_domain(opened, "flowers").familiar is None
    add_pack(bundle, pack, replace=True)
    assert (bundle / FILE).read_bytes() == data


def test_what_changes_a_domain_keeps_it(bundle):
    data = (bundle / FILE).read_bytes()
    assert update_domain(bundle, "flowers", closed=[1], temperature=2.0).familiar is not None
    assert (bundle / FILE).read_bytes() == data


def test_without_the_file_the_domain_runs_and_cannot_tell(bundle):
    """So does a domain that an older da3 has carried on."""
    (bundle / FILE).unlink()
    with Runtime(bundle, backend="reference") as runtime:
        assert runtime.run(mixed()[:1], "flowers")[0].known is None


def test_damage_is_refused(bundle):
    data = (bundle / FILE).read_bytes()
    (bundle / FILE).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with Bundle(bundle) as opened, pytest.raises(BundleError, match="what its photos look like are not those"):
        opened.verify()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda n, t: n.update(limit=0), "a limit between 0 and 1"),
        (lambda n, t: n["places"][0].update(terms=["e9"]), "terms that are among looks"),
        (lambda n, t: n["places"][1]["knots"].reverse(), "ascending distances"),
        (lambda n, t: n["places"][1].update(knots=[[2.0, 1.0]]), "shares, from 0 to 1"),
        (lambda n, t: n["places"][1].update(knots=[[0.5]]), "a knot is a share and a distance"),
        (lambda n, t: n["looks"].update(e0=["x", 1.0]), "finite numbers"),
        (lambda n, t: n["looks"].update(e0=[0.0, 0.0]), "deviation must be positive"),
        (lambda n, t: n.update(places=[]), "must have places"),
        (lambda n, t: n.update(energy=[1]), "energy must hold 2 numbers"),
        (lambda n, t: t.pop("e0.rows"), "the tensor e0.rows is missing"),
        (lambda n, t: t.update({"e0.offsets": t["e0.offsets"] * np.float16(np.nan)}), "not finite"),
        (lambda n, t: t.update({"e0.offsets": np.zeros(999, np.float16)}), "more offsets than rows"),
    ],
)
def test_what_does_not_go_together_is_refused(bundle, change, message):
    tensors, metadata = parse_safetensors((bundle / FILE).read_bytes(), "it")
    numbers = json.loads(metadata["familiar"])
    change(numbers, tensors)
    replace(bundle, write_safetensors(tensors, {"familiar": json.dumps(numbers)}))
    with Bundle(bundle) as opened, pytest.raises(BundleError, match=message):
        read_domain(opened, "flowers")


def replace(bundle, data):
    """Put a file in the place of the domain's, with its hash."""
    from da3.runtime.bundle import file_entry

    (bundle / FILE).write_bytes(data)
    path = bundle / "domains" / "flowers" / "domain.json"
    content = json.loads(path.read_text())
    content["familiar"].update(file_entry(data)._asdict())
    path.write_text(json.dumps(content))


def test_looks_of_another_network_are_refused(bundle, made):
    narrow = made[1].looks["e0"]
    for wrong in (
        made[1]._replace(looks={**made[1].looks, "e0": narrow._replace(rows=narrow.rows[:, : EXIT_WIDTH - 1])}),
        made[1]._replace(places=made[1].places[:2]),
    ):
        with pytest.raises(DomainError, match=r"not for this bundle's plan; export it again"):
            update_familiar(bundle, "flowers", wrong)
    with Bundle(bundle) as opened:
        assert read_domain(opened, "flowers").familiar.places == made[1].places, "the bundle is as it was"


def test_what_classifiers_read(bundle):
    with Bundle(bundle) as opened:
        assert seen_values(opened.manifest) == (("e0", "e1"), "features")


# -- commands


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_labelled(folder, ("flowers_0", "flowers_1", "flowers_2"), each=4)
    return folder


@pytest.fixture
def run(bundle, capsys):
    def call(*words, domain="flowers"):
        code = main([*map(str, words), "-b", str(bundle), "-d", domain, "--backend", "reference"], program="da3")
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def test_run_engine_says_unknown(run, pictures, tmp_path):
    code, out, _ = run("run-engine", pictures, "--unknown-below", 1, "--save-csv", tmp_path / "all.csv")
    lines = out.splitlines()[:12]
    assert code == 0 and all(": unknown (closest: flowers_" in line for line in lines)
    header, *rows = (line.split(",") for line in (tmp_path / "all.csv").read_text().splitlines())
    assert header[-2:] == ["known", "familiarity"] and {row[-2] for row in rows} == {"0"}
    code, out, _ = run("run-engine", pictures, "--unknown-below", 0)
    assert code == 0 and "unknown" not in out
    answers = json.loads(run("run-engine", pictures, "--json", "--unknown-below", 0)[1])["predictions"]
    assert all(one["known"] is True and 0 <= one["familiarity"] <= 1 for one in answers)


def test_a_domain_that_cannot_tell_refuses_what_needs_it(run, pictures):
    for words in (("run-engine", pictures, "--unknown-below", 0.1), ("evaluate", pictures, "--unknown", pictures)):
        code, out, err = run(*words, domain="signs")
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert "domain signs cannot tell unknown pictures" in err and "da3 calibrate --domain signs --unknown" in err
    answers = json.loads(run("run-engine", pictures, "--json", domain="signs")[1])["predictions"]
    assert {(one["known"], one["familiarity"]) for one in answers} == {(None, None)}


def test_unknown_ones_are_copied_too(run, pictures, tmp_path):
    wanted = ("--unsure-below", 0, "--to", tmp_path / "look", "--unknown-below", 1)
    code, out, _ = run("run-engine", pictures, *wanted)
    assert code == 0 and len(list((tmp_path / "look").glob("*/*.png"))) == 12
    assert "0 pictures below 0 and 12 others unknown, 12 copied to" in out


def test_evaluate_counts_false_alarms_and_asks_about_others(run, pictures, tmp_path):
    others = tmp_path / "others"
    write_labelled(others, ("x", "y"), each=3, seed=5)
    (others / "broken.jpg").write_bytes(b"no picture")
    _, out, err = run("evaluate", pictures, "--unknown", others, "--json", tmp_path / "it.json")
    assert "skipped: " in err and "broken.jpg" in err
    found = json.loads((tmp_path / "it.json").read_text())["evaluations"][0]
    rows, unknown = found["photos"], found["unknown"]
    assert unknown["photos"] == sum(not row["known"] for row in rows) and unknown["limit"] == 0.05
    assert unknown["share"] == unknown["photos"] / 12
    assert unknown["foreign"]["photos"] == 6 and 0 <= unknown["foreign"]["area_under_curve"] <= 1
    assert len(unknown["foreign"]["unreadable"]) == 1
    assert f"said to be unknown: {100 * unknown['share']:.1f} % ({unknown['photos']} of 12" in out
    assert f"of the 6 pictures in {others}: " in out
    assert run("evaluate", pictures, domain="flowers")[1].count("area under the curve") == 0


def test_pieces_of_a_batch_that_lack_a_value_keep_their_rows():
    """A domain's pictures that have all left early were not looked at by what lies behind."""
    from da3.runtime.execution.lane import _joined

    early, late = np.ones((2, 3), np.float32), np.full((3, 4), 2, np.float32)
    found = _joined([(2, {"e0": early}), (3, {"e0": np.ones((3, 3), np.float32), "features": late})])
    assert found["e0"].shape == (5, 3) and found["features"].shape == (5, 4)
    np.testing.assert_array_equal(found["features"][2:], late)


def test_unknown_frames_of_a_stream_are_kept_too(expected, tmp_path):
    """What is kept is written once a second; here a frame was written just before, so that these are counted alone."""
    from da3.runtime.app.stream_unsure import UnsureFrames
    from da3.runtime.streams.address import parse_address
    from da3.runtime.streams.reading import Frame
    from da3.runtime.streams.watching import Seen

    kept, said = UnsureFrames(0.5, str(tmp_path), parse_address("rtsp://camera/1")), []
    kept._then = 7.0
    for known, probability in ((False, 0.9), (True, 0.9), (None, 0.9), (False, 0.4), (True, 0.4)):
        prediction = expected[0]._replace(known=known, probability=probability)
        kept(Seen(Frame(np.zeros((8, 8, 3), np.uint8), 1, 0.0, 7.5, None, 0), prediction, 0.0, 0.0, 0.0))
    kept.tell(said.append)
    assert said[0].startswith("2 frames below 0.5 and 1 others unknown, 0 kept in ")
