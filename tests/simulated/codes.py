"""CUDA's error codes: number in both APIs, name in the runtime API, text (cuGetErrorString gives the same)."""

# name in the driver API without CUDA_ERROR_ -> (number, name in the runtime API without cudaError, text)
CODES = {
    "INVALID_VALUE": (1, "InvalidValue", "invalid argument"),
    "OUT_OF_MEMORY": (2, "MemoryAllocation", "out of memory"),
    "NOT_INITIALIZED": (3, "InitializationError", "initialization error"),
    "INSUFFICIENT_DRIVER": (35, "InsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    "NO_DEVICE": (100, "NoDevice", "no CUDA-capable device is detected"),
    "INVALID_DEVICE": (101, "InvalidDevice", "invalid device ordinal"),
    "INVALID_CONTEXT": (201, "DeviceUninitialized", "invalid device context"),
    "INVALID_HANDLE": (400, "InvalidResourceHandle", "invalid resource handle"),
    "ILLEGAL_STATE": (401, "IllegalState", "the operation cannot be performed in the present state"),
    "NOT_READY": (600, "NotReady", "device not ready"),
    "ILLEGAL_ADDRESS": (700, "IllegalAddress", "an illegal memory access was encountered"),
    "CONTEXT_IS_DESTROYED": (709, "ContextIsDestroyed", "context is destroyed"),
    "SYSTEM_DRIVER_MISMATCH": (
        803,
        "SystemDriverMismatch",
        "system has unsupported display driver / cuda driver combination",
    ),
    "STREAM_CAPTURE_UNSUPPORTED": (
        900,
        "StreamCaptureUnsupported",
        "operation not permitted when stream is capturing",
    ),
    "STREAM_CAPTURE_INVALIDATED": (
        901,
        "StreamCaptureInvalidated",
        "operation failed due to a previous error during capture",
    ),
    "STREAM_CAPTURE_MERGE": (
        902,
        "StreamCaptureMerge",
        "operation would result in a merge of separate capture sequences",
    ),
    "STREAM_CAPTURE_UNMATCHED": (
        903,
        "StreamCaptureUnmatched",
        "capture was not ended in the same stream as it began",
    ),
    "STREAM_CAPTURE_UNJOINED": (904, "StreamCaptureUnjoined", "capturing stream has unjoined work"),
    "STREAM_CAPTURE_ISOLATION": (
        905,
        "StreamCaptureIsolation",
        "dependency created on uncaptured work in another stream",
    ),
    "STREAM_CAPTURE_IMPLICIT": (
        906,
        "StreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
    "CAPTURED_EVENT": (
        907,
        "CapturedEvent",
        "operation not permitted on an event last recorded in a capturing stream",
    ),
}


def number(code):
    return CODES[code][0]


def text(code):
    return CODES[code][2]
