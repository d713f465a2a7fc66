"""The one context of the process in which CUDA and TensorRT work."""

import atexit
import threading
from typing import Any, Callable, Dict, Hashable

# A context is retained once a process and package, and not released before the process ends: what TensorRT keeps for
# itself would be left without its context, and pycuda tells contexts apart by the object.
_contexts: Dict[Hashable, Any] = {}
_lock = threading.Lock()


def primary_context(package: Hashable, retain: Callable[[], Any]) -> Any:
    """The primary context that a package works in: what `retain` gave the first time it was asked for this package."""
    with _lock:
        if package not in _contexts:
            if not _contexts:
                atexit.register(_contexts.clear)
            _contexts[package] = retain()
        return _contexts[package]
