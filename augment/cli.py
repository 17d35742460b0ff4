"""The command line: `augment --help`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from augment.commands import stores
from augment.commands.options import SheetOption, out
from augment.errors import AugmentError, InputError, RecipeError

if TYPE_CHECKING:
    from augment.recipe import Recipe

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")

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


class LogLevel(StrEnum):
    """The least severe messages to show."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@app.callback()
def augment(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="The same as --log-level info.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors and results only, no progress.")] = False,
    log_level: Annotated[LogLevel | None, typer.Option(help="The least severe messages to show or write.")] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Write all messages, from info up, with their times to this file.")
    ] = None,
) -> None:
    """Background replacement as a dataset augmentation for PyTorch."""
    usual = LogLevel.ERROR if quiet else LogLevel.INFO if verbose else LogLevel.WARNING
    level = (log_level or usual).value.upper()
    shown = RichHandler(level, Console(stderr=True), show_path=False, show_time=False)
    handlers: list[logging.Handler] = [shown]
    if log_file is not None:
        try:
            written = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise InputError(f"--log-file {log_file}: it cannot be written: {error.strerror}") from error
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(written)
        level = "DEBUG" if log_level is LogLevel.DEBUG else "INFO"  # a file may tell more than the terminal
    logging.basicConfig(level=level, format="%(message)s", handlers=handlers)
    context.obj = not quiet


@app.command()
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("augment-demo"),
) -> None:
    """Run everything on real photographs, without downloads: make pictures, fill a cache, and train from it.

    Example: `augment demo -o augment-demo`
    """
    from augment.commands.demo import run

    out.print(run(output, progress=context.obj))


@app.command()
def prewarm(
    context: typer.Context,
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
    batch_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Give up on a batch, and then on an image, that takes a stage longer."),
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="List all refused and failed images in this .csv or .json file.")
    ] = None,
    sheet: SheetOption = None,
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
            progress=context.obj,
            missing=missing,
            window=window,
            batch_timeout=batch_timeout,
        )
    out.print(str(report), markup=False)
    if report_file is not None:
        report.save(report_file)
    if sheet is not None and report.images:
        from augment.commands.sheet import write_sheet

        out.print(f"{write_sheet(cache, sheet)} rows: {sheet}", markup=False)
    if report.failures or report.unfit or not report.complete:
        raise typer.Exit(1)


@app.command()
def scenes(
    context: typer.Context,
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
            progress=context.obj,
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
def apply(
    context: typer.Context,
    images: Annotated[Path, typer.Argument(help="The folder of a dataset: its images and its labels.")],
    cache: Annotated[str, typer.Option("--cache", help="The cache or pack that its images were prewarmed into.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder, or the one of an interrupted run.")],
    copies: Annotated[int, typer.Option(min=1, help="Number of composites per image.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed draws other backgrounds.")] = 0,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="How labels are kept: auto (all that are found), imagefolder, yolo, coco, voc, masks or hf.",
        ),
    ] = "auto",
    only_new: Annotated[bool, typer.Option("--only-new", help="Leave the original images out.")] = False,
    source: Annotated[str, typer.Option(help="Which backgrounds: pool, own, pool:same, pool:other, plates:pool, …")] = (
        "pool"
    ),
    scale: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Range of the factor of the object's size.")
    ] = (1.0, 1.0),
    translate: Annotated[str, typer.Option(help="Where the object goes: keep, uniform or center.")] = "keep",
    flip: Annotated[float, typer.Option(help="Probability of mirroring the object.")] = 0.0,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Which of the cache's recipes; by default the latest.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Number of processes.")] = None,
) -> None:
    """Write composites as a dataset with the layout and the label files of the input. It can be stopped at any time
    and run again.

    Images in folders or lists for validation and test are copied, and get no composites. `manifest.csv` in the output
    lists every image, and why any has no composites.

    Example: `augment apply dataset --cache photos-cache -o dataset-new --copies 3`
    """
    from augment.commands.apply import run as run_apply
    from augment.sampling.placement import Placement

    placement = Placement(scale, translate, flip)  # type: ignore[arg-type]  # it checks the name
    try:
        summary = run_apply(
            *(images, cache, output),
            copies=copies,
            seed=seed,
            form=form,
            only_new=only_new,
            recipe=recipe,
            source=source,
            placement=None if placement == Placement() else placement,
            workers=workers,
            progress=context.obj,
        )
    except KeyboardInterrupt:
        out.print("Interrupted. Finished work is kept; run the same command again to continue.")
        raise typer.Exit(130) from None
    out.print(str(summary), markup=False)
    if summary.failed:
        raise typer.Exit(1)


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
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe with all settings.")] = None) -> None:
    """List the built-in recipes, or print one as TOML as a starting point for your own.

    Example: `augment recipes classic > mine.toml`
    """
    if name is not None:
        from augment.recipe import Recipe

        out.print(Recipe.load(name).to_toml(), markup=False, end="")
        return
    from augment.commands.recipes import as_tables, summaries

    for table in as_tables(summaries()):
        out.print(table)


for command in (stores.verify, stores.gallery, stores.inspect, stores.reject, stores.export):
    app.command()(command)
app.command(name="import")(stores.import_)


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
