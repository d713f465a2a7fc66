"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

BACKBONES = "mobilenet_v2, efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, resnet18, resnet34 or resnet50"
DomainOption = Annotated[str, typer.Option("--domain", "-d", help="name of the domain, such as flowers")]
RunsOption = Annotated[Path, typer.Option("--runs", help="folder of training runs")]
