"""What every node has to have before anything starts: da3 of this version, the files, the shared folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from da3.toolchain.errors import FleetError

_PATIENCE = 60.0  # seconds for a node to look


class Node(NamedTuple):
    """A node that lives: its ``name`` is one in the cluster; ``resources`` by the names that Ray gives them."""

    id: str
    name: str
    resources: dict[str, float]

    def has(self, demand: Mapping[str, float]) -> bool:
        """Whether a job with these demands can ever run there."""
        return all(self.resources.get(name, 0.0) >= amount for name, amount in demand.items())


def living(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Of what ``ray.nodes()`` gives, those that live: called as their hosts, or where several are on one host, with the
    beginning of their id."""
    alive = [node for node in nodes if node["Alive"]]
    hosts = [str(node["NodeManagerHostname"]) for node in alive]
    return [
        Node(
            str(node["NodeID"]),
            host if hosts.count(host) == 1 else f"{host}-{str(node['NodeID'])[:4]}",
            {str(name): float(amount) for name, amount in node["Resources"].items()},
        )
        for node, host in zip(alive, hosts, strict=True)
    ]


def demand(job: Mapping[str, Any]) -> dict[str, float]:
    """What a job asks of a node, by the names that Ray gives resources."""
    asked = {"CPU": float(job["cpus"]), "GPU": float(job["gpus"]), "memory": float(job["memory"])}
    return {name: amount for name, amount in asked.items() if amount}


def check_demands(jobs: Sequence[Mapping[str, Any]], nodes: Sequence[Node]) -> None:
    """Raise FleetError for the first job that no node can ever hold, with what the largest have."""
    for job in jobs:
        wanted = demand(job)
        if any(node.has(wanted) for node in nodes):
            continue
        words = {"CPU": "cpus", "GPU": "gpus", "memory": "memory"}
        most = {name: max((node.resources.get(name, 0.0) for node in nodes), default=0.0) for name in words}
        asks = ", ".join(f"{words[name]} {_amount(name, amount)}" for name, amount in wanted.items())
        has = ", ".join(f"{words[name]} {_amount(name, amount)}" for name, amount in most.items())
        raise FleetError(f"domain {job['name']} asks for {asks}, and no node of the cluster has that (the most: {has})")


def look(paths: list[str], shared: list[str], mark: str) -> dict[str, Any]:
    """What a node finds of ``paths``, and of the file ``mark`` in the folders ``shared``. It is sent there as it is,
    since a node may have no da3: so it imports inside, and uses nothing of this file."""
    import os
    import sys

    try:
        from da3.runtime.system import VERSION
    except ImportError:
        return {"da3": None, "python": sys.executable}
    try:
        import importlib.util

        import da3.toolchain.fleet.task  # noqa: F401

        if importlib.util.find_spec("torch") is None:
            return {"da3": VERSION, "python": sys.executable, "missing": "it has no PyTorch"}
    except ImportError as error:
        return {"da3": VERSION, "python": sys.executable, "missing": str(error)}
    return {
        "da3": VERSION,
        "absent": [path for path in paths if not os.path.exists(os.path.expanduser(path))][:4],
        "apart": [folder for folder in shared if not os.path.exists(os.path.join(folder, mark))][:4],
        "unwritable": [folder for folder in shared if not os.access(folder, os.W_OK | os.X_OK)][:4],
    }


def check_nodes(
    ray: Any, nodes: Sequence[Node], *, version: str, paths: list[str], shared: list[str], mark: str
) -> None:
    """Let every node look. Raises FleetError for the first that lacks something, in one line."""
    import sys

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        sent = ray.remote(look)
        answers = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            asked = sent.options(num_cpus=0, max_retries=1, scheduling_strategy=there)
            answers.append((node, asked.remote(paths, shared, mark)))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.wait([answer for _, answer in answers], num_returns=len(answers), timeout=_PATIENCE)
    for node, answer in answers:
        try:
            found = ray.get(answer, timeout=0)
        except Exception as error:
            reason = "did not answer in a minute" if isinstance(error, TimeoutError) else type(error).__name__
            raise FleetError(f"node {node.name} cannot be used ({reason}): see to it, or take it out") from error
        problem = _problem(found, version)
        if problem:
            raise FleetError(f"node {node.name} {problem}")


def _problem(found: Mapping[str, Any], version: str) -> str:
    """What a node lacks, in words; empty where nothing."""
    if found["da3"] is None:
        return f"has no da3 in {found['python']}: pip install 'da3[train,cpu,ray]' there"
    if found["da3"] != version:
        return f"has da3 {found['da3']}, and this one is {version}: install the same everywhere"
    if found.get("missing"):
        return f"cannot train ({found['missing']}): pip install 'da3[train,cpu,ray]' there"
    if found["absent"]:
        return f"has no {found['absent'][0]}: put it where every node sees it, or name it by a URI"
    if found["apart"]:
        return f"does not see this machine's {found['apart'][0]}: name a folder that all nodes share, or a URI"
    if found["unwritable"]:
        return f"cannot write in {found['unwritable'][0]}: change its permissions"
    return ""


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.1f}GiB" if name == "memory" else f"{amount:g}"
