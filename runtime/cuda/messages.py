"""What is said when CUDA does not work, and what to do about it."""

from ..errors import BackendError
from ..system.sizes import render_bytes
from .interface import Cuda

INSTEAD = "or run on the CPU with --backend onnxruntime"


def out_of_memory(what: str, nbytes: int, cuda: Cuda) -> BackendError:
    """The error for device memory that cannot be reserved.

    what: its use, in words; nbytes: how much was asked for; cuda: the GPU, whose context the thread has pushed.
    """
    try:
        free, total = cuda.memory()
        left = "%s of %s free" % (render_bytes(free), render_bytes(total))
    except BackendError:
        left = "and how much is free cannot be told"
    return BackendError(
        "the GPU's memory is too small for %s: %s asked for, %s; close other programs that use the GPU, take smaller "
        "batches, or `da3 build` with a smaller --workspace" % (what, render_bytes(nbytes), left)
    )


def cannot_pin(nbytes: int) -> BackendError:
    """The error for page-locked host memory that cannot be reserved."""
    return BackendError("this machine has no %s of memory left to pin: close other programs" % render_bytes(nbytes))


def failed(what: str, detail: str) -> BackendError:
    """The error for a call that fails. what: what was to be done, in words; detail: what CUDA says of it."""
    return BackendError("CUDA could not %s: %s" % (what, detail))


def unusable(detail: str) -> BackendError:
    """The error for a driver or GPU that does not answer. detail: what the package says of it."""
    text = first_line(detail)
    low = text.lower().replace("_", " ")
    if "libcuda.so" in low and "symbol" not in low:
        what = "no NVIDIA driver is installed here (%s): install it, or start the container with --gpus all (with "
        what += "--runtime nvidia on a Jetson)"
    elif "cannot open shared object" in low:
        what = "a library of CUDA is missing (%s): install the CUDA that this Python's package was built for"
    elif "no device" in low or "no cuda-capable" in low:
        what = "the NVIDIA driver sees no GPU (%s): look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    elif any(word in low for word in ("mismatch", "combination", "insufficient", "not found", "stub", "symbol")):
        what = "the NVIDIA driver and this CUDA package do not fit each other (%s): update the driver, or reboot if "
        what += "it was just updated, or install the package for the driver's CUDA"
    elif "compat not supported" in low:
        what = "CUDA's forward compatibility does not work on this GPU (%s): remove the cuda-compat package"
    else:
        what = "CUDA does not start (%s): check the driver with nvidia-smi"
    return BackendError("%s, %s" % (what % text, INSTEAD))


def first_line(error: object) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def driver_text(number: int) -> str:
    """A CUDA version as the driver gives it, as text: 12040 -> "12.4"."""
    return "%d.%d" % (number // 1000, number % 1000 // 10)
