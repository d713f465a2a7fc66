"""``da3 fleet train`` on real Ray clusters: nodes and processes that are lost, and always one result."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from da3.runtime.bundle import list_domains
from da3.runtime.training import checkpoint
from da3.toolchain.bench.local_cluster import SETTINGS, LocalCluster, descendants
from da3.toolchain.bench.same_runs import different_packs, different_runs
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet import cluster as clusters
from da3.toolchain.fleet import read_plan
from da3.toolchain.process.worker import Worker

pytest.importorskip("ray", reason="pip install 'da3[ray]'")

START = "import sys; sys.argv[0] = 'da3'; from da3.toolchain.cli.main import main; main()"
ENVIRONMENT = {**os.environ, **SETTINGS}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU."""
    with LocalCluster(2, 1) as found:
        yield found


@pytest.fixture
def fleet(photos, weights_files, tmp_path):
    """A function that writes fleet.yaml: ``fleet({"a": {"seed": 1}}, out=...)``; its plan."""

    def write(domains, out="out", name="fleet.yaml", **defaults):
        shared = {"data": photos, "weights": weights_files["mobilenet_v2"], "size": 32, "epochs": 2, "batch-size": 8}
        shared |= defaults
        lines = [f"out: {out}", f"cache: {tmp_path / 'cache'}", "defaults:"]
        lines += [f"  {key}: {value}" for key, value in shared.items()]
        lines += ["domains:"]
        for domain, options in domains.items():
            lines += [f"  {domain}:", *(f"    {key}: {value}" for key, value in options.items())]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return read_plan(str(tmp_path / name))

    return write


@pytest.fixture
def start():
    """A function that starts ``da3 fleet train`` of a plan; what still runs at the end of the test is killed."""
    started = []

    def begin(plan, *words):
        command = [sys.executable, "-c", START, "fleet", "train", plan.file, *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            for pid in (process.pid, *descendants(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()


def ended(process, within=300):
    """(exit code, stdout, stderr)"""
    out, err = process.communicate(timeout=within)
    return process.returncode, out, err


def alone(plan, folder):
    """Each domain of a plan trained and exported by itself, as a node would; where its run and its pack are."""
    found = {}
    for job in plan.jobs:
        request = {
            "options": {**job.options, "runs": str(folder)},
            "engine": job.engine,
            "threads": job.cpus,
            "pack": str(folder / f"{job.domain}.da3"),
        }
        with Worker("da3.toolchain.fleet.training_process", request, job.cpus) as worker:
            for _ in worker.answers():
                pass
        found[job.name] = folder / job.domain, folder / f"{job.domain}.da3"
    return found


def assert_same(plan, lone):
    for job in plan.jobs:
        run, pack = lone[job.name]
        assert different_runs(Path(job.runs, job.domain), run) == []
        assert different_packs(Path(job.pack), pack) == []


def wait_for(there, within=120):
    until = time.monotonic() + within
    while not there():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def epochs_done(job):
    try:
        return checkpoint.read_facts(Path(job.runs, job.domain, "last.safetensors")).progress.epoch
    except Exception:
        return 0


def trainers(pid):
    """The processes below one that train."""
    found = []
    for child in descendants(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_text()
        except OSError:
            continue
        if "training_process" in words:
            found.append(child)
    return found


@pytest.mark.slow
def test_a_fleet_on_this_machine_is_as_da3_train_and_is_not_trained_twice(
    fleet, photos, weights_files, tmp_path, start
):
    plan = fleet({"signs": {"seed": 3}, "letters": {}})
    code, out, err = ended(start(plan))
    assert (code, "2 of 2 domains are finished" in out) == (0, True), err
    words = [sys.executable, "-c", START]
    options = ["--data", photos, "--weights", weights_files["mobilenet_v2"], "--size", 32, "--epochs", 2, "--seed", 3]
    run = [*words, "train", "-d", "signs", *map(str, options), "--batch-size", "8", "--runs", "lone", "-q"]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    subprocess.run(run, cwd=tmp_path, check=True, env=environment, capture_output=True)
    for more in (["export", "-d", "signs", "--runs", "lone", "-q"], ["domains", "pack", "signs", "--out", "signs.da3"]):
        subprocess.run([*words, *more], cwd=tmp_path, check=True, env=environment, capture_output=True)
    assert different_runs(Path(plan.runs, "signs"), tmp_path / "lone" / "signs") == []
    assert different_packs(Path(plan.jobs[0].pack), tmp_path / "signs.da3") == []
    assert list_domains(Path(plan.out, "bundle")) == ["letters", "signs"]
    assert (Path(plan.runs, "signs", "metrics.jsonl")).read_text().count("\n") == 2
    before = {path: path.stat().st_mtime_ns for path in Path(plan.runs).rglob("*") if path.is_file()}
    more = fleet({"signs": {"seed": 3}, "letters": {}, "third": {}})
    code, out, err = ended(start(more))
    assert code == 0 and "2 of 3 domains are finished already" in err and "3 of 3" in out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert list_domains(Path(plan.out, "bundle")) == ["letters", "signs", "third"]


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_result(fleet, cluster, tmp_path, start):
    plan = fleet({"signs": {}, "letters": {"seed": 1, "engine": "onnxruntime"}}, epochs=25)
    lone = alone(plan, tmp_path / "lone")
    process = start(plan, "--address", cluster.address)
    wait_for(lambda: all(epochs_done(job) >= 2 for job in plan.jobs))
    doomed = [pid for raylet in cluster.raylets for pid in trainers(raylet)]
    assert doomed
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 0, err
    assert "goes on after it was lost" in err and "Traceback" not in err
    assert_same(plan, lone)


@pytest.mark.slow
@pytest.mark.parametrize("places", ["paths", "uris"])
def test_a_lost_node_s_domains_go_on_elsewhere_to_the_same_result(places, fleet, photos, tmp_path, start):
    """Photos and results at URIs are brought and put by the node that has the domain; here each node has its own cache,
    as machines have, only in so far as what it brings is the same."""
    domains = {"signs": {}, "letters": {"seed": 1}, "third": {"seed": 2}}
    lone = alone(fleet(domains, epochs=25), tmp_path / "lone")
    if places == "uris":
        plan = fleet(domains, epochs=25, out=f"file://{tmp_path}/there", data=f"file://{photos}")
    else:
        plan = fleet(domains, epochs=25)
    jobs = [replace(j, runs=j.runs.replace("file://", ""), pack=j.pack.replace("file://", "")) for j in plan.jobs]
    with LocalCluster(2, 1) as both:
        process = start(plan, "--address", both.address)
        wait_for(lambda: sum(epochs_done(job) >= 3 for job in jobs) >= 2)
        both.switch_off(1)
        code, out, err = ended(process)
    assert code == 0 and "3 of 3" in out, err
    assert "goes on after it was lost" in err or "its node is gone" in err
    for job in jobs:
        run, pack = lone[job.name]
        differ = different_runs(Path(job.runs, job.domain), run)
        assert [d for d in differ if places == "paths" or not d.endswith("the configuration")] == []
        assert different_packs(Path(job.pack), pack) == []
    if places == "uris":
        assert list_domains(tmp_path / "there" / "bundle.zip") == sorted(domains)
        assert [path.name for path in (tmp_path / "there").rglob(".coming*")] == []


@pytest.mark.slow
def test_a_killed_driver_and_a_stopped_one_are_gone_on_with(fleet, cluster, tmp_path, start):
    plan = fleet({"signs": {}, "letters": {"seed": 1}, "third": {"seed": 2}}, epochs=25)
    lone = alone(plan, tmp_path / "lone")
    process = start(plan, "--address", cluster.address)
    wait_for(lambda: epochs_done(plan.jobs[0]) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = start(plan, "--address", cluster.address)
    wait_for(lambda: epochs_done(plan.jobs[0]) >= 5)
    os.kill(process.pid, signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130 and "stopped; all is saved" in out and "Traceback" not in err, (out, err)
    assert not Path(plan.jobs[2].runs, "third").exists(), "what waited was not begun"
    assert not [pid for raylet in cluster.raylets for pid in trainers(raylet)]
    code, _, err = ended(start(plan, "--address", cluster.address))
    assert code == 0, err
    assert_same(plan, lone)


@pytest.mark.slow
def test_a_domain_that_fails_does_not_stop_the_others(fleet, cluster, tmp_path, start):
    (tmp_path / "empty").mkdir()
    plan = fleet({"signs": {"data": tmp_path / "empty"}, "letters": {}, "third": {"lr": 9.9, "epochs": 3}})
    code, _, err = ended(start(plan, "--address", cluster.address))
    assert code == 1 and "error: domain signs: " in err and "Traceback" not in err, err
    assert Path(plan.jobs[1].pack).exists() and "letters" in list_domains(Path(plan.out, "bundle"))
    mended = fleet({"letters": {}, "third": {"lr": 9.9, "epochs": 3}})
    assert ended(start(mended, "--address", cluster.address))[0] in (0, 1)
    other = fleet({"letters": {"epochs": 3}})
    code, _, err = ended(start(other, "--address", cluster.address))
    assert code == 1 and "domain letters: cannot resume" in err and "--epochs was 2, now 3" in err
    code, _, err = ended(start(other, "--address", cluster.address, "--overwrite"))
    assert code == 0 and epochs_done(other.jobs[0]) == 3, err


@pytest.mark.slow
def test_what_the_cluster_cannot_do_is_said_before_anything_starts(fleet, cluster, tmp_path, start):
    for domains, message in (
        ({"signs": {"cpus": 2}}, "domain signs asks for cpus 2, and no node of the cluster has that"),
        ({"signs": {"gpus": 1}}, "domain signs asks for cpus 1, gpus 1, and no node"),
        ({"signs": {"memory": "900GiB"}}, "memory 900.0GiB, and no node"),
        ({"signs": {"weights": tmp_path / "none.safetensors"}}, "has no .*none.safetensors: put it where every node"),
        ({"signs": {"data": tmp_path / "nowhere"}}, "has no .*nowhere: put it where every node"),
        ({"signs": {"data": "nonsense://x"}}, "Protocol not known: nonsense"),
    ):
        code, _, err = ended(start(fleet(domains), "--address", cluster.address))
        assert code == 1 and "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert re.search(message, line), line
        assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.slow
def test_a_port_that_is_no_cluster_s(monkeypatch):
    """Ray itself would try for minutes."""
    monkeypatch.setattr(clusters, "_CONNECTS_WITHIN", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: [listening.accept() for _ in range(50)], daemon=True).start()
        began = time.monotonic()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(FleetError, match="no Ray cluster answers there within 5 s"):
            list(clusters.Fleet([], address=address).events())
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_benchmark_of_accuracy_runs_on_a_cluster_as_here(cluster, photos, weights_files, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("letters", "signs"):
        (data / name).symlink_to(photos)
    reports = {}
    for where, more in (("here", []), ("there", ["--address", cluster.address])):
        words = ["bench", "accuracy", "--data", data, "--weights", weights_files["mobilenet_v2"], "--size", 32]
        words += ["--epochs", 1, "--seeds", 1, "--methods", "linear,da3", "--out", tmp_path / where, "--json"]
        command = [sys.executable, "-c", START, *map(str, words), *more]
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
        assert done.returncode == 0, done.stderr
        reports[where] = json.loads(done.stdout)
    assert reports["there"]["rows"] and reports["there"]["failed"] == []
    assert [(row["method"], row["domain"], row["last"]) for row in reports["there"]["rows"]] == [
        (row["method"], row["domain"], row["last"]) for row in reports["here"]["rows"]
    ]
