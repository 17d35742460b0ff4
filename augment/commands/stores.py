"""The commands that look at a store, mend it, or move it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from augment.commands.options import SheetOption, out


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


def gallery(
    context: typer.Context,
    store: Annotated[str, typer.Argument(help="A cache's or pack's folder, or a pack's URL.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page to write.")] = None,
    sheet: SheetOption = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="Show only this one of its recipes.")] = None,
) -> None:
    """Write one page that shows everything in a store, to filter it and to mark what is bad.

    Example: `augment gallery photos-cache -o photos.html`
    """
    from augment.commands.gallery import write_gallery
    from augment.commands.sheet import write_sheet

    if output is None and sheet is None:
        output = Path("gallery.html")
    if output is not None:
        out.print(f"{write_gallery(store, output, recipe, context.obj)} images: {output}", markup=False)
    if sheet is not None:
        out.print(f"{write_sheet(store, sheet, recipe)} rows: {sheet}", markup=False)


def inspect(
    context: typer.Context,
    store: Annotated[str, typer.Argument(help="A cache's or pack's folder, or a pack's URL.")],
    image: Annotated[
        str | None, typer.Argument(help="Show how everything of this image (a path or key) was made.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Count what a store holds, recipe by recipe; or show how everything of one image was made.

    Example: `augment inspect photos-cache photos/cup/001.jpg`
    """
    from augment.commands.inspect import as_tables, inspect_image, inspect_store, to_json

    found = inspect_store(store, context.obj) if image is None else inspect_image(store, image)
    if as_json:
        print(to_json(found))
        return
    for table in as_tables(found):
        out.print(table)


def reject(
    store: Annotated[Path, typer.Argument(help="The cache's folder.")],
    file: Annotated[Path, typer.Argument(help="The list that was saved in the gallery.")],
) -> None:
    """Reject mattes and backgrounds: training no longer uses them, and the next prewarm draws the backgrounds anew.

    Example: `augment reject photos-cache rejected.txt`
    """
    from augment.commands.reject import run

    rejection = run(store, file)
    out.print(str(rejection), markup=False)
    if rejection.unknown:
        raise typer.Exit(1)


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


def import_(
    url: Annotated[str, typer.Argument(help="A pack's folder or URL.")],
    cache: Annotated[Path, typer.Argument(help="The cache's folder; created if it does not exist.")],
) -> None:
    """Merge a pack into a cache.

    Example: `augment import photos-pack photos-cache`
    """
    from augment.commands.transfer import import_ as run

    out.print(run(url, cache), markup=False)
