"""``da3 bench scale``: what copies of a domain take, and a model that is right where it can be checked."""

import io
import json
import re
import shutil
import socket
import threading

import pytest
from registries import PROGRAM, docker_registry
from synthetic_bundle import write_bundle, write_exits_bundle
from typer.testing import CliRunner

from da3.runtime.errors import Da3Error
from da3.toolchain.bench import ScalePlan, SilentBenchReporter, bench_scale, scale_table
from da3.toolchain.bench.counting_relay import counting_relay
from da3.toolchain.bench.scale_model import at, foretell, scaled
from da3.toolchain.bench.scale_process import hold_domains
from da3.toolchain.cli.commands import app

COUNTS = (1, 2, 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_exits_bundle(folder, domains=("flowers",))
    return folder


@pytest.fixture(scope="module")
def report(bundle, tmp_path_factory):
    """With a registry where there is one."""
    plan = {"bundle": bundle, "domain": None, "counts": COUNTS, "backend": "reference", "domains": 100, "boards": 20}
    if PROGRAM is None:
        return bench_scale(ScalePlan(**plan), SilentBenchReporter())
    with docker_registry(tmp_path_factory.mktemp("registry") / "served") as host:
        return bench_scale(ScalePlan(**plan, registry=f"oci://{host}/bench"), SilentBenchReporter())


def test_what_is_measured(report, bundle):
    assert [row["domains"] for row in report["rows"]] == list(COUNTS) and report["domain"] == "flowers"
    size = report["rows"][0]["pack_bytes"]
    for row in report["rows"]:
        assert row["pack_bytes"] == pytest.approx(size, rel=0.01) and row["disk_bytes"] > row["domains"] * size / 2
        assert row["one_bytes"] > 10e6 and row["resident_bytes"] > 10e6
        assert min(row[name] for name in ("add_ms", "load_ms", "switch_us", "names_ms", "layout_ms")) > 0
    assert report["backbone_bytes"] == sum(
        path.stat().st_size for path in bundle.rglob("*") if path.is_file() and "domains" not in path.parts
    )
    assert sorted(path.name for path in bundle.iterdir()) == ["adaptors", "backbone", "domains", "manifest.json"]
    json.dumps(report)


def test_what_goes_over_the_wire(report):
    if PROGRAM is None:
        pytest.skip("no docker-registry: apt-get install docker-registry")
    for row in report["rows"]:
        assert row["pack_bytes"] < row["pull_bytes"] < row["pack_bytes"] + 5_000
        assert row["pack_bytes"] < row["push_bytes"] < row["pack_bytes"] + 15_000
        assert 500 < row["poll_bytes"] < 3_000 and row["push_ms"] > 0 and row["pull_ms"] > 0


def test_the_table_says_what_was_measured_and_what_was_not(report):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120)
    console.print(scale_table(report))
    text = console.file.getvalue()
    assert "measured" in text and "by the model, not measured: 100 domains, 20 boards of 10" in text
    assert re.search(r"add a pack +[\d.]+ ms +[\d.]+ ms +[\d.]+ ms +[\d.]+ ms \([+-]\d+%\)", text)


def row(domains, **more):
    """What an ideal machine gives: 50 MB and 2 MB a domain, 1 MB on disk each."""
    made = {
        "domains": domains,
        "pack_bytes": 1e6,
        "disk_bytes": 1_100_000 * domains,
        "one_bytes": 52e6,
        "resident_bytes": 50e6 + 2e6 * domains,
        "layout_bytes": None,
        "layout_ms": None,
        "names_ms": 1.0 + 0.01 * domains,
        "add_ms": 20.0,
        "load_ms": 10.0,
        "switch_us": 0.3,
        "push_ms": 100.0,
        "push_bytes": 1.01e6,
        "pull_ms": 50.0,
        "pull_bytes": 1.001e6,
        "poll_bytes": 1500.0,
    }
    return {**made, **more}


def test_the_model_foretells_what_is_linear():
    rows = [row(1), row(10), row(100, add_ms=40.0)]
    found = {one["figure"]: one for one in foretell(rows)}
    assert found["resident_bytes"]["foretold"] == pytest.approx(250e6) and found["resident_bytes"]["error"] == 0
    assert found["add_ms"]["measured"] == 40 and found["add_ms"]["error"] == -0.5
    assert foretell(rows[:2]) == [] and at(rows[:1], "disk_bytes", 7) == 1_100_000


def test_the_model_of_a_fleet():
    assumed = {"domains": 10_000, "boards": 1_000, "domains_a_board": 10, "megabits_a_second": 100.0}
    model = scaled([row(1), row(10), row(100)], 9_000_000, assumed)
    assert model["registry_bytes"] == 1e10 and model["push_all_seconds"] == 1000
    assert model["roll_out_bytes"] == pytest.approx(1.001e10) and model["board_add_seconds"] == 0.2
    assert model["roll_out_seconds_at_link"] == pytest.approx(1.001e10 / 12.5e6)
    assert model["one_changed_bytes"] == pytest.approx(1.001e9) and model["polls_a_second"] == pytest.approx(
        10_000 / 3600
    )
    assert model["poll_bytes_an_hour"] == 1.5e7 and model["board_disk_bytes"] == pytest.approx(11e6)
    assert model["server_resident_bytes"] == pytest.approx(20.05e9) and model["server_load_seconds"] == 100
    assert model["board_resident_bytes"] == pytest.approx(70e6) and model["server_names_ms"] == pytest.approx(101)
    assert model["apart_bytes"] == 1e11
    nothing = dict.fromkeys(("push_ms", "push_bytes", "pull_ms", "pull_bytes", "poll_bytes"))
    bare = scaled([row(1, **nothing), row(10, **nothing)], 9_000_000, assumed)
    assert bare["push_all_bytes"] is None and bare["roll_out_bytes"] == pytest.approx(1.002e10)


def test_the_relay_counts_both_ways():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            taken, _ = server.accept()
            with taken:
                taken.sendall(b"y" * (1000 - len(taken.recv(100))))

        threading.Thread(target=answer, daemon=True).start()
        with counting_relay(*server.getsockname()) as counted:
            with socket.create_connection(("127.0.0.1", counted.port), 5) as client:
                client.sendall(b"x" * 70)
                got = b"".join(iter(lambda: client.recv(4096), b""))
            assert len(got) == 930 and (counted.bytes_sent, counted.bytes_got) == (70, 930)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"counts": (10, 1)}, "each larger than the one before"),
        ({"counts": (0, 1)}, "numbers from 1 on"),
        ({"domain": "tulips"}, "unknown domain 'tulips'"),
        ({"registry": "oci://ghcr.io/bench"}, "one on this machine with its port"),
        ({"registry": "oci://localhost/bench"}, "one on this machine with its port"),
        ({"registry": "localhost:5000"}, "it starts with oci://"),
    ],
)
def test_what_cannot_be_measured(bundle, changes, says):
    with pytest.raises(Da3Error, match=says):
        bench_scale(ScalePlan(**{"bundle": bundle, "domain": "flowers", **changes}), SilentBenchReporter())


def test_which_domain(tmp_path):
    write_bundle(tmp_path / "bundle")
    with pytest.raises(Da3Error, match="which domain?"):
        bench_scale(ScalePlan(bundle=tmp_path / "bundle", domain=None), SilentBenchReporter())
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "bundle")
    with pytest.raises(Da3Error, match="zipped bundle"):
        bench_scale(ScalePlan(bundle=archive, domain="flowers"), SilentBenchReporter())


def test_a_process_that_fails_says_why(bundle):
    with pytest.raises(Da3Error, match="a process with 1 domains of .* failed: unknown domain 'tulips'"):
        hold_domains(bundle, ["tulips"], "reference")


def test_wrong_counts():
    done = CliRunner().invoke(app, ["bench", "scale", "--counts", "1,ten"])
    assert done.exit_code == 1 and "use a comma list of numbers" in str(done.output) + str(done.exception)
