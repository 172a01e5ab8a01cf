"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="a run file, or the short name of a tuned example")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting over the file's: config.lr=1e-5")
]
ImportOption = Annotated[
    list[Path] | None,
    typer.Option("--import", metavar="FILE.py", help="user code that registers rewards or environments"),
]
