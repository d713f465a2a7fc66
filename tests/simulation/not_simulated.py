"""What stands for a name that the real library has and this simulation lacks."""

from typing import Any


class NotSimulated(BaseException):
    """The name exists in the real library, but this simulation does not imitate it: not a fault of the program.

    Not an Exception, so that no `except Exception` takes it for an answer.
    """


class Unsimulated:
    """Stands where the release has a name that the simulation lacks: `hasattr` is true, any use of it says so."""

    _name: Any

    def __init__(self, name):
        object.__setattr__(self, "_name", name)

    def _refuse(self, *args, **kwargs):
        raise NotSimulated(f"{self._name} exists in this release of TensorRT, but tests/simulation does not imitate it")

    __call__ = __getattr__ = __setattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __int__ = __index__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __str__ = __format__ = _refuse
    __hash__ = object.__hash__
