"""CUDA's error codes: the number of each, and the text that cuGetErrorString gives."""

# name in the driver API without CUDA_ERROR_ -> (number, text)
CODES = {
    "INVALID_VALUE": (1, "invalid argument"),
    "OUT_OF_MEMORY": (2, "out of memory"),
    "NOT_INITIALIZED": (3, "initialization error"),
    "INSUFFICIENT_DRIVER": (35, "CUDA driver version is insufficient for CUDA runtime version"),
    "NO_DEVICE": (100, "no CUDA-capable device is detected"),
    "INVALID_DEVICE": (101, "invalid device ordinal"),
    "INVALID_CONTEXT": (201, "invalid device context"),
    "PRIMARY_CONTEXT_ACTIVE": (708, "primary context of the specified device has already been initialized"),
    "INVALID_HANDLE": (400, "invalid resource handle"),
    "ILLEGAL_STATE": (401, "the operation cannot be performed in the present state"),
    "NOT_READY": (600, "device not ready"),
    "ILLEGAL_ADDRESS": (700, "an illegal memory access was encountered"),
    "CONTEXT_IS_DESTROYED": (709, "context is destroyed"),
    "SYSTEM_DRIVER_MISMATCH": (803, "system has unsupported display driver / cuda driver combination"),
    "STREAM_CAPTURE_UNSUPPORTED": (900, "operation not permitted when stream is capturing"),
    "STREAM_CAPTURE_INVALIDATED": (901, "operation failed due to a previous error during capture"),
    "STREAM_CAPTURE_MERGE": (902, "operation would result in a merge of separate capture sequences"),
    "STREAM_CAPTURE_UNMATCHED": (903, "capture was not ended in the same stream as it began"),
    "STREAM_CAPTURE_UNJOINED": (904, "capturing stream has unjoined work"),
    "STREAM_CAPTURE_ISOLATION": (905, "dependency created on uncaptured work in another stream"),
    "STREAM_CAPTURE_IMPLICIT": (906, "operation would make the legacy stream depend on a capturing blocking stream"),
    "CAPTURED_EVENT": (907, "operation not permitted on an event last recorded in a capturing stream"),
}


def number(code):
    return CODES[code][0]


def text(code):
    return CODES[code][1]
