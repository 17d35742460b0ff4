"""The command line: `augment --help`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from augment.errors import AugmentError, RecipeError

if TYPE_CHECKING:
    from augment.recipe import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console(soft_wrap=True, highlight=False)

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A preset's name or a TOML file; see `augment recipes`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Change a setting of the recipe; may be given again."),
]
VariantsOption = Annotated[int, typer.Option(min=1, help="Backgrounds for each image.")]


@app.callback()
def augment(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs.")] = False,
) -> None:
    """Background replacement as a dataset augmentation for PyTorch."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[handler])


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("augment-demo"),
) -> None:
    """The whole job on real photographs, without downloads: pictures, a cache, and a DataLoader that trains from it."""
    from augment.commands.demo import run

    out.print(run(output))


@app.command()
def prewarm(
    images: Annotated[Path, typer.Argument(help="A folder of images, searched below too, or one image.")],
    cache: Annotated[Path, typer.Option("--cache", help="The cache's folder; made if need be.")],
    recipe: RecipeOption = "classic",
    settings: SetOption = None,
    variants: VariantsOption = 1,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode, and threads.")] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only images that training looked for and did not find.")
    ] = False,
) -> None:
    """Compute for every image what the cache lacks; safe to stop and to run again."""
    from augment.prewarming import Interrupted
    from augment.prewarming import prewarm as run

    try:
        report = run(images, cache, _recipe(recipe, settings), variants=variants, workers=workers, missing=missing)
    except Interrupted as interrupted:
        out.print(str(interrupted.report), markup=False)
        out.print("Interrupted: what is done is kept; run the same command again for the rest.")
        raise typer.Exit(130) from None
    out.print(str(report), markup=False)
    if report.failures:
        raise typer.Exit(1)


@app.command()
def run(
    image: Annotated[Path, typer.Argument(help="One image.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")],
    recipe: RecipeOption = "classic",
    settings: SetOption = None,
    variants: VariantsOption = 1,
    group: Annotated[str | None, typer.Option(help="The object's class, kept out of the background.")] = None,
) -> None:
    """The chain for one image: a picture of each step, and trace.json with what was done."""
    from augment.commands.run import run as run_one

    report = run_one(image, output, _recipe(recipe, settings), variants=variants, group=group)
    for reason in report.unusable:
        out.print(
            f"The matte is unusable: {reason}. See {output / 'cutout.png'}; another remover may do better.",
            markup=False,
        )
    for failure in report.failures:
        out.print(str(failure), markup=False)
    if not report.complete:
        raise typer.Exit(1)
    out.print(f"{output / 'composite.png'}, and what led to it beside it", markup=False)


@app.command()
def doctor(recipe: RecipeOption = "classic", settings: SetOption = None) -> None:
    """Show whether this machine has what a recipe needs; exit code 1 where something is missing."""
    from augment.commands.doctor import examine, free_resources

    findings = examine(_recipe(recipe, settings))
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "backend", "runs on", "weights", "ready"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        ready = "no" if finding.problem else "yes"
        table.add_row(finding.kind, finding.backend, finding.target, finding.weights, ready)
    out.print(table)
    for name, free in free_resources(Path.cwd()):
        out.print(f"{name}: {free / 2**30:.1f} GiB free", markup=False)
    problems = [f"{finding.kind}: {finding.problem}" for finding in findings if finding.problem]
    for problem in problems:
        out.print(problem, markup=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this one, every setting of it.")] = None) -> None:
    """List the recipes that come along, or print one as TOML to start your own from."""
    from augment.recipe import Recipe, presets

    if name is not None:
        out.print(Recipe.load(name).to_toml(), markup=False, end="")
        return
    for preset in presets():
        stages = Recipe.load(preset).makers.items()
        out.print(f"{preset:<10}" + " → ".join(f"{kind}: {stage.backend}" for kind, stage in stages))


def _recipe(name: str, settings: list[str] | None) -> Recipe:
    """The recipe with what `--set` changes; a value is read as TOML, or else as text."""
    from augment.recipe import Recipe, parse_value

    changes: dict[str, Any] = {}
    for setting in settings or []:
        path, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: write it as STAGE.FIELD=VALUE, say generate.steps=30")
        changes[path.strip()] = parse_value(text.strip())
    recipe = Recipe.load(name)
    return recipe.changed(changes) if changes else recipe


def main() -> None:
    """Entry point. What went wrong is said in one line; exit code 2 for wrong use, 130 after Ctrl-C."""
    try:
        app()
    except AugmentError as error:
        Console(stderr=True, soft_wrap=True).print(f"augment: {error}", markup=False, highlight=False)
        sys.exit(2)
