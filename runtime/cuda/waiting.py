"""How the host waits for the GPU: it sleeps, spins, or spins and gives its core to whoever wants it.

CUDA chooses by itself where it is not told (CU_CTX_SCHED_AUTO). Beside a GPU of its own memory that is to spin. On a
Tegra it may sleep, "based on the power profile" (cuda.h), and being woken takes longer than a small part of a network
runs, once for every exit. There da3 asks for the third way (CU_CTX_SCHED_YIELD): on a free core it answers as fast as
spinning, and a camera's thread that wants the core gets it. Not one of them was measured on a board: DA3_CUDA_WAIT says
which to take.
"""

import ctypes
import os

from ..errors import BackendError
from .libcuda import Driver

VARIABLE = "DA3_CUDA_WAIT"
_FLAGS = {"auto": 0, "spin": 1, "yield": 2, "block": 4}  # CU_CTX_SCHED_...; their three bits are its mask
_MASK = 7


def set_waiting(integrated: bool) -> None:
    """Set how threads wait in the first GPU's primary context, before it is retained. CUDA must have been started.

    Nothing is changed where the context is in use already: whoever did that has chosen. integrated: the GPU shares the
    system's memory. Raises BackendError for a word in DA3_CUDA_WAIT that is none.
    """
    word = os.environ.get(VARIABLE) or ("yield" if integrated else "auto")
    if word not in _FLAGS:
        raise BackendError("%s=%s: take one of %s" % (VARIABLE, word, ", ".join(_FLAGS)))
    if word == "auto":
        return
    try:
        call = Driver().call
    except BackendError:  # a package reached the driver in a way that we do not know: it waits as CUDA chooses
        return
    flags, active = ctypes.c_uint(), ctypes.c_int()
    if call.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active)) or active.value:
        return
    if call.cuDevicePrimaryCtxSetFlags is not None:
        # A driver that refuses waits as it would have done.
        call.cuDevicePrimaryCtxSetFlags(0, (flags.value & ~_MASK) | _FLAGS[word])
