"""What several commands share: options, and where their results go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console(soft_wrap=True, highlight=False)

SheetOption = Annotated[
    Path | None, typer.Option("--sheet", help="Write a picture of some images and what training sees of them.")
]
