"""What Triton's Python backend imports, model.py: it finds the runtime that lies beside it, and hands over."""

from typing import Dict

_TEXT = '''"""da3 in Triton's Python backend. Written by `da3 pack --triton`, which replaces it: do not edit."""

import os
import sys

import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_engine.pyz"))


class TritonPythonModel:
    def initialize(self, args):
        if sys.version_info < (3, 6):
            found = sys.version.split()[0]
            raise pb_utils.TritonModelException("da3 needs Python 3.6 or newer, and Triton has %s" % found)
        try:
            import numpy
        except ImportError as error:
            raise pb_utils.TritonModelException("da3 needs numpy in Triton's Python (%s): pip install numpy" % error)
        from da3.runtime.serving import ServedModel

        self.served = ServedModel(pb_utils, args, os.path.abspath(__file__))

    def execute(self, requests):
        return self.served.execute(requests)

    def finalize(self):
        if hasattr(self, "served"):
            self.served.close()
'''


# Python would put a folder of that name beside model.py, and Triton would take the model for changed and load it again,
# with all domains. Where a file is in the place of that folder, Python leaves it alone.
_NO_CACHE = "Python must write nothing here: Triton would take it for a change of the model, and load it again.\n"


def model_files() -> Dict[str, bytes]:
    """Files of the folder of the model's version, by name."""
    return {"model.py": _TEXT.encode("ascii"), "__pycache__": _NO_CACHE.encode("ascii")}
