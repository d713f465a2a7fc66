"""What is asked of nodes before anything starts, and what the board tells whom."""

import io
import re
import socket
import sys

import pytest
from rich.console import Console

from da3.runtime.system import VERSION
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet import Connected, Fleet, Job, LiveTable, Outcome, State, driver_process
from da3.toolchain.fleet.board import Board
from da3.toolchain.fleet.nodes import _problem, check_demands, living, look
from da3.toolchain.fleet.task import train_job


def ray_node(name, alive=True, **resources):
    return {"NodeID": name * 8, "Alive": alive, "NodeManagerHostname": "host", "Resources": resources}


def job(**demands):
    return {"name": "flowers", "cpus": 1, "gpus": 0, "memory": 0, **demands}


def test_nodes_of_one_host_have_names_of_their_own():
    nodes = living([ray_node("a"), ray_node("b", alive=False), ray_node("c")])
    assert [node.name for node in nodes] == ["host-aaaa", "host-cccc"]
    assert [node.name for node in living([ray_node("a")])] == ["host"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus": 4}, "asks for cpus 4, and no node of the cluster has that .the most: cpus 2, gpus 1, memory 8.0GiB"),
        ({"gpus": 1, "memory": 8 << 30}, "asks for cpus 1, gpus 1, memory 8.0GiB"),
    ],
)
def test_what_no_node_has_is_said(asked, message):
    nodes = living([ray_node("a", CPU=2.0, memory=8.0 * 2**30), ray_node("c", CPU=1.0, GPU=1.0, memory=2.0**30)])
    check_demands([job(cpus=2, memory=8 << 30), job(gpus=1, memory=1 << 30)], nodes)
    with pytest.raises(FleetError, match=message):
        check_demands([job(**asked)], nodes)


def test_a_node_looks(tmp_path):
    (tmp_path / "mark").touch()
    found = look([str(tmp_path), str(tmp_path / "none")], [str(tmp_path)], "mark")
    assert found == {"da3": VERSION, "absent": [str(tmp_path / "none")], "apart": [], "unwritable": []}
    assert look([], [str(tmp_path)], "other")["apart"] == [str(tmp_path)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"da3": None, "python": "/usr/bin/python3"}, "has no da3 in /usr/bin/python3: pip install"),
        ({"da3": "0.0.9"}, "has da3 0.0.9, and this one is 1.0"),
        ({"missing": "it has no PyTorch"}, "cannot train .it has no PyTorch"),
        ({"absent": ["/w.safetensors"]}, "has no /w.safetensors: put it where every node sees it"),
        ({"apart": ["/out"]}, "does not see this machine's /out: name a folder that all nodes share"),
        ({"unwritable": ["/out"]}, "cannot write in /out"),
        ({}, "^$"),
    ],
)
def test_what_a_node_lacks_is_said(changes, message):
    found = {"da3": "1.0", "absent": [], "apart": [], "unwritable": [], **changes}
    assert re.search(message, _problem(found, "1.0"))


def test_the_board_hears_the_latest_attempt_alone():
    board = Board()
    assert board.begin("a", "node1") == 1 and board.say("a", 1, {"done": 0.5}) is False
    assert board.changes() == {"a": {"attempt": 1, "node": "node1", "done": 0.5}} and board.changes() == {}
    assert board.begin("a", "node2") == 2
    assert board.say("a", 1, {"done": 0.9}) is True, "an attempt that was given up is to stop"
    assert board.changes() == {"a": {"attempt": 2, "node": "node2"}}
    assert board.stop() == ["a"] and board.say("a", 2, {}) is True
    assert board.begin("b", "node1") == 0


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:", "host:port", "", "a b:1", "host:123456"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(FleetError, match="use auto, or HOST:PORT"):
        Fleet([], address=address)


def test_where_nobody_listens_is_said_in_a_line():
    pytest.importorskip("ray", reason="pip install 'da3[ray]'")
    with pytest.raises(
        FleetError, match=r"--address 127\.0\.0\.1:1: nobody answers there .Connection refused"
    ) as raised:
        list(Fleet([], address="127.0.0.1:1").events())
    assert "\n" not in str(raised.value)


def told(terminal, names, events):
    file = io.StringIO()
    table = LiveTable(Console(file=file, force_terminal=terminal, width=100, height=12, soft_wrap=True))
    table.begin(names, {"old": 0.5} if "old" in names else {})
    for event in events:
        (table.outcome if isinstance(event, Outcome) else table.state)(event)
    shown = Console(file=io.StringIO(), width=100)
    shown.print(table.rendered())
    return file.getvalue(), shown.file.getvalue()


def test_the_table_has_every_domain():
    events = [
        State("a", "running", "node1", doing="training", done=0.5, accuracy=0.25),
        State("b", "running", "node2", attempt=2),
        State("c", "running", "node2"),
        Outcome("c", "failed", "no photos"),
    ]
    lines, table = told(False, ["a", "b", "c", "d", "old"], events)
    assert "error: domain c: no photos" in lines and "b: goes on after it was lost, on node2 (attempt 2)" in lines
    rows = {row.split()[0]: row for row in table.splitlines() if row.strip()}
    assert "50%" in rows["a"] and "25.0%" in rows["a"] and "node1" in rows["a"] and "failed: no photos" in rows["c"]
    assert "waiting" in rows["d"] and "finished" in rows["old"] and "100 %" in rows["old"]
    assert "2 running, 1 failed, 1 waiting, 1 finished" in table


def test_of_many_domains_those_at_work_are_shown():
    names = [f"domain{i}" for i in range(50)]
    _, table = told(True, names, [State("domain49", "running", "node1")])
    assert "domain49" in table and "and 44 more" in table and "49 waiting" in table


def test_a_lost_node_and_a_connection_are_told():
    file = io.StringIO()
    table = LiveTable(Console(file=file, soft_wrap=True))
    table.begin(["a"], {})
    table.connected(Connected({"n1": {"CPU": 4.0, "GPU": 1.0}, "n2": {"CPU": 2.0}}))
    table.state(State("a", "waiting", lost=True))
    assert "1 domain to train on 2 nodes, 6 CPUs, 1 GPUs" in file.getvalue()
    assert "a: its node is gone; it goes on elsewhere from its last checkpoint" in file.getvalue()


def test_a_ray_that_does_not_fit_or_is_not_there(monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install 'da3[ray]'")
    text = "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\nThis process on node x was started with:"

    def refuse(*args, **kwargs):
        raise RuntimeError(text)

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(driver_process, "_knock", lambda address: None)
    with (
        pytest.raises(FleetError, match="no cluster to use at host:1: Version mismatch: .* Ray: 2.9.0 This process"),
        driver_process._ray("host:1"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FleetError, match=r"fleets need Ray: pip install 'da3\[ray\]'"), driver_process._ray(None):
        pass


def test_a_node_of_another_version_trains_nothing():
    job = Job(name="a", options={"domain": "a"}, runs="/nowhere", cache="/nowhere")
    assert train_job(job.to_json(), "0.0.1", None) == {
        "state": "failed",
        "why": f"this node has da3 {VERSION}, and the fleet was started by da3 0.0.1",
    }


def test_what_ends_before_it_begins_is_stopped():
    """Ctrl-C while the cluster does not answer: nothing was begun, and nothing is wrong."""
    pytest.importorskip("ray", reason="pip install 'da3[ray]'")
    job = Job(name="a", options={"domain": "a"}, runs="/nowhere", cache="/nowhere")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert list(Fleet([job], address=address, stop=lambda: True).events()) == [Outcome("a", "stopped")]
