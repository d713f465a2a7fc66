"""A trained domain written into a bundle, or as one ONNX file, and verified against PyTorch first."""

from da3.export.backbone import export_backbone
from da3.export.checks import Check
from da3.export.errors import ExportError, VerificationError
from da3.export.exporter import Exported, export_domain, export_standalone

__all__ = [
    "Check",
    "ExportError",
    "Exported",
    "VerificationError",
    "export_backbone",
    "export_domain",
    "export_standalone",
]
