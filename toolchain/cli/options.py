"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

DomainOption = Annotated[str, typer.Option("--domain", "-d", help="name of the domain, such as flowers")]
RunsOption = Annotated[Path, typer.Option("--runs", help="folder of training runs")]
