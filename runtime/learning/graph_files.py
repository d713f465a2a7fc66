"""The files of a run's graphs, each made in a process of its own, where it can be ahead of the time it is wanted."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Dict, Iterable, Tuple

from ..bundle.bundle import Bundle
from ..system.scratch import temporary_folder
from .making import make_file


class GraphFiles:
    """A folder that holds one file of each kind. One process makes files at a time, since each takes several times what
    the backbone weighs. Close it at the end of the run."""

    def __init__(self) -> None:
        self._scratch = ExitStack()
        self._folder = self._scratch.enter_context(temporary_folder("graphs"))
        self._maker = ThreadPoolExecutor(1)
        self._made: Dict[str, Tuple[Any, Any]] = {}  # by kind, what its file is made for, and the future of its making

    def ahead(self, kinds: Iterable[str], bundle: Bundle, classes: int, closed: Tuple[int, ...]) -> None:
        """Begin to make these; see `make_file`. What goes wrong is said when the file is asked for."""
        for kind in kinds:
            wanted = (classes, closed)
            if kind not in self._made or self._made[kind][0] != wanted:
                making = self._maker.submit(make_file, kind, bundle.path, self._path(kind), classes, closed, 1)
                self._made[kind] = (wanted, making)

    def path(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...]) -> str:
        """The file, once it is there. Raises BackendError with what the process that makes it says."""
        self.ahead([kind], bundle, classes, closed)
        try:
            self._made[kind][1].result()
        except BaseException:
            del self._made[kind]
            raise
        return self._path(kind)

    def _path(self, kind: str) -> str:
        return os.path.join(self._folder, "%s.onnx" % kind)

    def close(self) -> None:
        """Remove the files; waits for one that is being made."""
        for _, making in self._made.values():
            making.cancel()
        self._maker.shutdown()
        self._scratch.close()
