"""The command line: `augment --help`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.logging import RichHandler

from augment.errors import AugmentError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console(soft_wrap=True, highlight=False)

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A preset's name or a TOML file; see `augment recipes`.")
]


@app.callback()
def augment(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False,
) -> None:
    """Background replacement as a dataset augmentation for PyTorch."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[handler])


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("augment-demo"),
) -> None:
    """The whole job on real photographs, without downloads: pictures, a cache, and a DataLoader that trains from it."""
    from augment.demo import run

    out.print(run(output))


@app.command()
def prewarm(
    images: Annotated[Path, typer.Argument(help="A folder of images, searched below too, or one image.")],
    cache: Annotated[Path, typer.Option("--cache", help="The cache's folder; made if need be.")],
    recipe: RecipeOption = "classic",
    variants: Annotated[int, typer.Option(min=1, help="Backgrounds for each image.")] = 1,
    workers: Annotated[Optional[int], typer.Option(min=0, help="Processes that decode, and threads.")] = None,  # noqa: UP045
) -> None:
    """Compute for every image what the cache lacks; safe to stop and to run again."""
    from augment.prewarming import Interrupted
    from augment.prewarming import prewarm as run

    try:
        report = run(images, cache, recipe, variants=variants, workers=workers)
    except Interrupted as interrupted:
        out.print(str(interrupted.report), markup=False)
        out.print("Interrupted: what is done is kept; run the same command again for the rest.")
        raise typer.Exit(130) from None
    out.print(str(report), markup=False)
    if report.failures:
        raise typer.Exit(1)


@app.command()
def recipes(name: Annotated[Optional[str], typer.Argument(help="Print this one, every setting of it.")] = None) -> None:  # noqa: UP045
    """List the recipes that come along, or print one as TOML to start your own from."""
    from augment.recipe import Recipe, presets

    if name is not None:
        out.print(Recipe.load(name).to_toml(), markup=False, end="")
        return
    for preset in presets():
        stages = Recipe.load(preset).stages.items()
        out.print(f"{preset:<10}" + " → ".join(f"{kind}: {stage.backend}" for kind, stage in stages))


def main() -> None:
    """Entry point. What went wrong is said in one line; exit code 2 for wrong use, 130 after Ctrl-C."""
    try:
        app()
    except AugmentError as error:
        Console(stderr=True, soft_wrap=True).print(f"augment: {error}", markup=False, highlight=False)
        sys.exit(2)
