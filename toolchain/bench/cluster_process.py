"""A Ray cluster of several nodes on this machine: ``python -m da3.toolchain.bench.cluster_process``, for LocalCluster.

Each node is a raylet of its own, with its own workers, as on a machine of its own; all listen on 127.0.0.1 alone. The
request has ``nodes`` and ``cpus``, of each. It says ``address``, and ``raylets``, the process of each node.
"""

from __future__ import annotations

import time
from typing import Any

from da3.toolchain.errors import TrainingError
from da3.toolchain.process import Answer, Say, end_on_sigterm, serve

_STORE = 80 << 20  # bytes for Ray's objects
_LONGEST = 3600.0  # seconds, and then it ends


def _work(request: Answer, say: Say) -> None:
    try:
        from ray.cluster_utils import Cluster
    except ImportError as error:
        raise TrainingError("a cluster needs Ray: pip install 'da3[ray]'") from error
    node: dict[str, Any] = {
        "num_cpus": request["cpus"],
        "node_ip_address": "127.0.0.1",
        "object_store_memory": _STORE,
    }
    cluster: Any = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        nodes = [cluster.head_node, *(cluster.add_node(**node) for _ in range(request["nodes"] - 1))]
        raylets = [one.all_processes["raylet"][0].process.pid for one in nodes]
        say({"address": cluster.address, "raylets": raylets})
        with end_on_sigterm():
            time.sleep(_LONGEST)
    except KeyboardInterrupt:
        pass
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    serve(_work)
