"""What Triton's Python backend gives a model: as much of `triton_python_backend_utils` as da3 uses, in Python.

After https://github.com/triton-inference-server/python_backend (README and src/pb_stub.cc). The real one is asked by
tests/serving.
"""

import json
from types import SimpleNamespace

import numpy as np


class Tensor:
    def __init__(self, name, array):
        assert isinstance(array, np.ndarray) and array.dtype != np.int64
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class InferenceRequest:
    def __init__(self, tensors, outputs, parameters=None):
        self._tensors, self._outputs = [Tensor(*one) for one in tensors.items()], outputs
        self._parameters = json.dumps(parameters or {})

    def inputs(self):
        return self._tensors

    def requested_output_names(self):
        return list(self._outputs)

    def parameters(self):
        return self._parameters

    def is_cancelled(self):
        return False


class TritonError:
    INTERNAL, INVALID_ARG = 1, 3

    def __init__(self, message, code=None):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def outputs(self):
        return {tensor.name(): tensor.as_numpy() for tensor in self._tensors}


class TritonModelException(Exception):
    pass


class _Metric:
    def __init__(self):
        self.value = 0.0

    def increment(self, by):
        assert by >= 0
        self.value += by


class MetricFamily:
    COUNTER = 0

    def __init__(self, name, description, kind):
        self.name, self.description, self.metrics = name, description, {}
        assert kind == self.COUNTER

    def Metric(self, labels):
        key = tuple(sorted(labels.items()))
        assert key not in self.metrics
        return self.metrics.setdefault(key, _Metric())


class Logger:
    lines = ()

    @classmethod
    def log_error(cls, text):
        cls.lines += (text,)

    log_warn = log_error


def pb_utils():
    """A module of one's own: its metrics and its log are empty."""
    log = type("Logger", (Logger,), {"lines": ()})
    made = []

    class Families(MetricFamily):
        def __init__(self, name, description, kind):
            super().__init__(name, description, kind)
            made.append(self)

    def get_input_tensor_by_name(request, name):
        return next((tensor for tensor in request.inputs() if tensor.name() == name), None)

    return SimpleNamespace(
        Tensor=Tensor,
        InferenceRequest=InferenceRequest,
        InferenceResponse=InferenceResponse,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        MetricFamily=Families,
        Logger=log,
        get_input_tensor_by_name=get_input_tensor_by_name,
        made=made,
    )


def counters(module):
    """{(counter, domain): its value}."""
    return {
        (family.name, dict(labels)["domain"]): metric.value
        for family in module.made
        for labels, metric in family.metrics.items()
    }
