"""The command line: `augment --help`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from augment.errors import AugmentError, RecipeError

if TYPE_CHECKING:
    from augment.recipe import Recipe

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
out = Console(soft_wrap=True, highlight=False)

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A preset's name or a TOML file; see `augment recipes`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Change a setting of the recipe; can be repeated."),
]
VariantsOption = Annotated[int, typer.Option(min=1, help="Number of backgrounds per image.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from augment import __version__

        out.print(__version__)
        raise typer.Exit


@app.callback()
def augment(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the library's log.")] = False,
) -> None:
    """Background replacement as a dataset augmentation for PyTorch."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[handler])


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("augment-demo"),
) -> None:
    """Run everything on real photographs, without downloads: make pictures, fill a cache, and train from it.

    Example: `augment demo -o augment-demo`
    """
    from augment.commands.demo import run

    out.print(run(output))


@app.command()
def prewarm(
    images: Annotated[Path, typer.Argument(help="A folder of images (with its subfolders) or one image.")],
    cache: Annotated[Path, typer.Option("--cache", help="The cache's folder; created if it does not exist.")],
    recipe: RecipeOption = "classic",
    settings: SetOption = None,
    variants: VariantsOption = 1,
    workers: Annotated[int | None, typer.Option(min=0, help="Number of decoding processes and of threads.")] = None,
    size_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="How large the cache may grow, such as 10GB; none for no limit.")
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Process only images that training looked for and did not find.")
    ] = False,
    groups: Annotated[
        Path | None, typer.Option(help="A CSV table with the columns path and group: the class of each image.")
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Values of 16-bit images that become black and white, such as 0 4095."),
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="List all refused and failed images in this .csv or .json file.")
    ] = None,
) -> None:
    """Compute what the cache lacks for each image. It can be stopped at any time and run again.

    Example: `augment prewarm photos --cache photos-cache --variants 4`
    """
    from augment.prewarming import prewarm as run
    from augment.store.cache import Cache
    from augment.store.settings import parse_size

    with _stopping(report_file):
        report = run(
            images,
            Cache(cache, size_limit=None if size_limit is None else parse_size(size_limit)),
            _recipe(recipe, settings),
            variants=variants,
            workers=workers,
            groups=groups,
            missing=missing,
            window=window,
        )
    out.print(str(report), markup=False)
    if report_file is not None:
        report.save(report_file)
    if report.failures or report.unfit or not report.complete:
        raise typer.Exit(1)


@app.command()
def scenes(
    prompts: Annotated[str, typer.Argument(help="A prompt, or a text file with one prompt a line.")],
    cache: Annotated[Path | None, typer.Option("--cache", help="The cache that the scenes join.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for pictures of every step.")] = None,
    recipe: RecipeOption = "webui",
    settings: SetOption = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, help="Number of scenes in all; one for each prompt by default.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=0, help="Rounds of repainting; the recipe's by default, 0 for none.")
    ] = None,
    size: Annotated[tuple[int, int], typer.Option(metavar="WIDTH HEIGHT", help="In pixels.")] = (512, 512),
) -> None:
    """Make backgrounds from prompts alone, which serve every image of a cache. It can be stopped and run again.

    Example: `augment scenes "full body, city background, walking" -o city --recipe webui`
    """
    from augment.prewarming.scenes import scenes as run

    width, height = size
    with _stopping():
        report = run(
            *(prompts, cache, _recipe(recipe, settings)),
            output=output,
            count=count,
            depth=depth,
            size=(height, width),
        )
    out.print(str(report), markup=False)
    if report.failures or report.unfit or not report.complete:
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
    """Run the chain on one image: write a picture of each step, and trace.json with the details.

    Example: `augment run photo.jpg -o out --recipe sd15 --set generate.steps=30`
    """
    from augment.commands.run import run as run_one

    report = run_one(image, output, _recipe(recipe, settings), variants=variants, group=group)
    for reason in report.unusable:
        out.print(
            f"The matte is unusable: {reason}. See {output / 'cutout.png'}; another remover may work better.",
            markup=False,
        )
    for failure in report.failures:
        out.print(str(failure), markup=False)
    if not report.complete:
        raise typer.Exit(1)
    out.print(f"{output / 'composite.png'}, with the pictures of each step next to it", markup=False)


@app.command()
def doctor(recipe: RecipeOption = "classic", settings: SetOption = None) -> None:
    """Check whether this machine has everything that a recipe needs. The exit code is 1 if something is missing.

    Example: `augment doctor --recipe sd15`
    """
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
def verify(
    store: Annotated[Path, typer.Argument(help="The cache's folder.")],
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is wrong.")] = False,
) -> None:
    """Check every entry, index and file of a cache. Exit code 1 if anything is wrong.

    Example: augment verify photos-cache --repair
    """
    from augment.commands.verify import run

    text, wrong = run(store, repair)
    out.print(text, markup=False)
    if wrong:
        raise typer.Exit(1)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe with all settings.")] = None) -> None:
    """List the built-in recipes, or print one as TOML as a starting point for your own.

    Example: `augment recipes classic > mine.toml`
    """
    from augment.recipe import Recipe, presets

    if name is not None:
        out.print(Recipe.load(name).to_toml(), markup=False, end="")
        return
    for preset in presets():
        stages = Recipe.load(preset).makers.items()
        out.print(f"{preset:<10}" + " → ".join(f"{kind}: {stage.backend}" for kind, stage in stages))


@app.command()
def export(
    cache: Annotated[Path, typer.Argument(help="The cache's folder.")],
    url: Annotated[str, typer.Argument(help="An empty folder, or a URL such as s3://bucket/pack.")],
    select: Annotated[
        str | None, typer.Option(help="Only these artifacts, with commas: background,matte,plate,caption,prompt.")
    ] = None,
) -> None:
    """Write a cache as a pack: plain tar files that are read anywhere, and never written.

    Example: `augment export photos-cache photos-pack`
    """
    from augment.commands.transfer import export as run

    out.print(run(cache, url, select), markup=False)


@app.command(name="import")
def import_(
    url: Annotated[str, typer.Argument(help="A pack's folder or URL.")],
    cache: Annotated[Path, typer.Argument(help="The cache's folder; created if it does not exist.")],
) -> None:
    """Merge a pack into a cache.

    Example: `augment import photos-pack photos-cache`
    """
    from augment.commands.transfer import import_ as run

    out.print(run(url, cache), markup=False)


@contextmanager
def _stopping(report_file: Path | None = None) -> Iterator[None]:
    """Around a run: if it is interrupted or cannot go on, print what was done, and save the report."""
    from augment.prewarming import Ended, Interrupted

    try:
        yield
    except Interrupted as interrupted:
        out.print(str(interrupted.report), markup=False)
        out.print("Interrupted. Finished work is kept; run the same command again to continue.")
        raise typer.Exit(130) from None
    except Ended as ended:
        out.print(str(ended.report), markup=False)
        if report_file is not None:
            ended.report.save(report_file)
        raise


def _recipe(name: str, settings: list[str] | None) -> Recipe:
    """The recipe with the changes of `--set`; a value is read as TOML if possible, otherwise as text."""
    from augment.recipe import Recipe, parse_value

    changes: dict[str, Any] = {}
    for setting in settings or []:
        path, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: write it as STAGE.FIELD=VALUE, for example generate.steps=30")
        changes[path.strip()] = parse_value(text.strip())
    recipe = Recipe.load(name)
    return recipe.changed(changes) if changes else recipe


def main() -> None:
    """Entry point. Errors are reported in one line; the exit code is 2 for wrong use and 130 after Ctrl-C."""
    try:
        app()
    except AugmentError as error:
        Console(stderr=True, soft_wrap=True).print(f"augment: {error}", markup=False, highlight=False)
        sys.exit(2)
