"""What Triton's Python backend runs: one runtime for all domains. model_file.py writes the class that Triton looks for.

`pb_utils` is Triton's own module, which is there in its Python alone:
https://github.com/triton-inference-server/python_backend
"""

import importlib.util
import os
import sys
import traceback
from typing import Any, Callable, Dict, List, Optional, Sequence

from ..bundle.bundle import Bundle
from ..bundle.jsonfile import read_json
from ..engine import Runtime
from ..errors import BackendError, Da3Error, DomainError, ImageError, printable
from ..system.ahead import default_workers
from .answering import Answered, Answerer
from .config_text import read_settings
from .held import Held
from .layout import BUNDLE, PACKS, STORE
from .metrics import Metrics
from .requests import Asked, read_request
from .tensors import output_values

_ENGINES = ("onnxruntime", "tensorrt")


class ServedModel:
    """The shared model. Triton calls `execute` from one thread at a time."""

    def __init__(self, pb_utils: Any, args: Dict[str, str], file: str) -> None:
        """args: what Triton hands to `initialize`; file: the model.py, from which the store is found.

        Raises pb_utils.TritonModelException, in a line that Triton writes to its log and answers to who loads it.
        """
        self._pb_utils = pb_utils
        try:
            check_triton(pb_utils)
            config = read_json(args["model_config"], 16 << 20)
            settings = read_settings(config, "the configuration of " + args["model_name"])
            store = os.path.join(os.path.dirname(file), "..", "..", "..", STORE)
            if not os.path.isdir(store):
                raise BackendError(
                    "there is no folder %s beside models/: give Triton the repository's whole folder, such as "
                    "-v REPO:/repo, and --model-repository=/repo/models" % STORE
                )
            store = os.path.realpath(store)
            _check_packages(settings.backend, self._log)
            bundle = Bundle(os.path.join(store, BUNDLE))
            bundle.verify()  # most of it is read when the first domain is asked for, and only then
            self._runtime = Runtime(bundle, settings.backend, settings.threads, settings.precision)
        except (Da3Error, ValueError, OSError) as error:
            raise pb_utils.TritonModelException(printable("da3: %s" % error))
        held = Held(self._runtime, os.path.join(store, PACKS), settings.domains_held)
        self._answerer = Answerer(self._runtime, held, settings.batch_size, default_workers())
        self._metrics = Metrics(pb_utils)

    def execute(self, requests: Sequence[Any]) -> List[Any]:
        """pb_utils.InferenceRequest -> pb_utils.InferenceResponse each, in order."""
        responses: List[Optional[Any]] = [None] * len(requests)
        asked: List[Asked] = []
        places: List[int] = []
        for i, request in enumerate(requests):
            try:
                asked.append(read_request(request, self._pb_utils))
                places.append(i)
            except Exception as error:
                responses[i] = self._refused(error)
        try:
            answered = self._answerer.answer(asked)
            for i, one, own in zip(places, asked, answered):
                responses[i] = self._response(one, own)
            self._count(asked, answered)
        except Exception as error:  # whatever it is, the process must go on: others' requests come
            left = [i for i, response in enumerate(responses) if response is None]
            for i in left:
                responses[i] = self._refused(error, log=i == left[0])
        return responses

    def close(self) -> None:
        self._runtime.close()

    def _response(self, asked: Asked, own: Answered) -> Any:
        if isinstance(own.answer, Exception):
            return self._refused(own.answer)
        tensors = []
        for name in asked.outputs:
            carrier, _, digit = name.rpartition("_")
            value = output_values(carrier if digit.isdigit() else name, own.answer, asked.top_k)
            tensors.append(self._pb_utils.Tensor(name, value))
        return self._pb_utils.InferenceResponse(output_tensors=tensors)

    def _refused(self, error: Exception, log: bool = True) -> Any:
        """A response that says what is wrong: with the request, or here."""
        kinds = self._pb_utils.TritonError
        reason = str(error)
        if not isinstance(error, Da3Error):
            reason = "da3 failed (%s), see Triton's log" % printable(repr(error))[:200]
            if log:
                self._log("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        code = kinds.INVALID_ARG if isinstance(error, (ImageError, DomainError)) else kinds.INTERNAL
        return self._pb_utils.InferenceResponse(output_tensors=[], error=kinds(reason, code))

    def _count(self, asked: Sequence[Asked], answered: Sequence[Answered]) -> None:
        """Once for each domain, since each counter costs a message to Triton's process."""
        counts: Dict[str, Dict[str, int]] = {}
        for one, own in zip(asked, answered):
            if own.domain is None:
                continue
            of_domain = counts.setdefault(own.domain, {})
            if isinstance(own.answer, Exception):
                of_domain["refused"] = of_domain.get("refused", 0) + len(one.pictures)
                continue
            for key, count in (
                ("pictures", len(own.answer)),
                ("blocks", sum(len(p.blocks) for p in own.answer)),
                ("skipped", sum(p.blocks_skipped for p in own.answer)),
                ("early", sum(p.exit is not None for p in own.answer)),
            ):
                of_domain[key] = of_domain.get(key, 0) + count
        for domain, of_domain in counts.items():
            self._metrics.add(domain, of_domain)

    def _log(self, text: str) -> None:
        logger = getattr(self._pb_utils, "Logger", None)
        if logger is not None:
            logger.log_error(text)


def _check_packages(backend: str, warn: Callable[[str], None]) -> None:
    """Raises BackendError where Triton's Python lacks what the domains cannot do without."""
    here = "Triton's Python %d.%d" % sys.version_info[:2]
    there = {name for name in ("onnxruntime", "tensorrt", "PIL", "cv2") if importlib.util.find_spec(name) is not None}
    if (backend == "onnxruntime" and "onnxruntime" not in there) or (backend == "auto" and not there & set(_ENGINES)):
        raise BackendError(
            "%s has no onnxruntime: pip install onnxruntime pillow, with that Python, where Triton runs" % here
        )
    if not there & {"PIL", "cv2"}:
        warn("da3: %s can decode no pictures, and takes `pixels` alone: pip install pillow" % here)


def check_triton(pb_utils: Any) -> None:
    """Raises BackendError where Triton is older than 23.10, from which on ensembles hand on what a request's parameters
    say. No version is told to a model; that release's Python backend has other things that those before have not."""
    if not hasattr(pb_utils, "MetricFamily") or not hasattr(pb_utils.InferenceRequest, "is_cancelled"):
        raise BackendError("this Triton is older than 23.10: its ensembles hand no parameters on; take a newer one")
