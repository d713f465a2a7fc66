"""model.py, which Triton's Python backend imports: it finds the runtime that lies beside it, and hands over."""

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


def model_file() -> bytes:
    return _TEXT.encode("ascii")
