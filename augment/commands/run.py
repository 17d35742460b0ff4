"""`augment run`: the whole chain for one image, with a picture of each step and a trace."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps
from torch.utils.data import Dataset

from augment.artifacts import BACKGROUND, CAPTION, MATTE, PLATE, Image
from augment.chain import Chain
from augment.errors import InputError
from augment.files import check_file
from augment.imaging.composite import composite, cutout
from augment.keys import image_key, to_rgb
from augment.prewarming import Report, prewarm
from augment.recipe import Recipe
from augment.store.cache import Cache
from augment.store.entries import Provenance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _OneImage(Dataset[Image]):
    """A Dataset of one image, named after its file."""

    path: Path
    image: Image

    @property
    def samples(self) -> list[tuple[str, int]]:
        return [(str(self.path), 0)]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Image:
        return self.image


def run(path: Path, folder: Path, recipe: Recipe, *, variants: int = 1, group: str | None = None) -> Report:
    """Run the whole chain on one image and write the results to `folder`.

    The files are `cutout.png`, `bg_only.png` (the plate), `generated_image.png`, `composite.png`, `trace.json` and
    `pipeline.log`. With enrichment, the folder `steps` holds the image after each repainted object. The names of
    further variants end in `_1`, `_2`, …. Results in the folder's `cache` are not computed again.

    The image is rotated by its EXIF orientation. `group` is the object's class, kept out of the background. Raises
    InputError for an image that cannot be read or results that cannot be written, and the errors of `prewarm`.
    """
    image = _read(path)
    for kind, stage in recipe.makers.items():
        if hasattr(stage, "keep_steps"):
            recipe = recipe.changed({f"{kind}.keep_steps": True})
    try:
        return _run(image, path, folder, recipe, variants, group)
    except OSError as error:
        raise InputError(f"{folder}: the results cannot be written: {error}") from error


def _run(image: Image, path: Path, folder: Path, recipe: Recipe, variants: int, group: str | None) -> Report:
    folder.mkdir(parents=True, exist_ok=True)
    with _log_to(folder / "pipeline.log"):
        cache = Cache(folder / "cache", codec="png")
        logger.info("%s, %d x %d, recipe %s", path, image.shape[1], image.shape[0], recipe.name)
        report = prewarm(
            _OneImage(path, image), cache, recipe, variants=variants, workers=0, groups=[group], progress=False
        )
        trace = _write(image, Chain(recipe, cache), folder, variants) | {"image": str(path)}
        (folder / "trace.json").write_text(json.dumps(trace, indent=1, ensure_ascii=False))
        logger.info("%s", report)
    return report


def _read(path: Path) -> Image:
    try:
        check_file(path)
        with PIL.Image.open(path) as file:
            return to_rgb(PIL.ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, InputError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error


def _write(image: Image, chain: Chain, folder: Path, variants: int) -> dict[str, Any]:
    """Write the pictures; returns the trace."""
    key, reader = image_key(image), chain.reader
    trace: dict[str, Any] = {"key": key, "recipe": chain.recipe.to_dict(), "stages": {}, "variants": []}
    for kind in chain.kinds:
        if not kind.per_variant:
            trace["stages"][kind.name] = _account(chain.cache.provenance(chain.name(kind, key)))
    matte = reader.get(MATTE, key)
    if matte is None:
        return trace
    PIL.Image.fromarray(cutout(image, matte)).save(folder / "cutout.png")
    trace["matte"] = {"confidence": matte.confidence, "coverage": matte.coverage, "unusable": matte.unusable}
    plate = reader.get(PLATE, key)
    if plate is not None:
        PIL.Image.fromarray(plate).save(folder / "bg_only.png")
    trace["caption"] = reader.get(CAPTION, key)
    for variant in range(variants):
        background = reader.get(BACKGROUND, key, variant)
        if background is None:
            continue
        suffix = f"_{variant}" if variant else ""
        PIL.Image.fromarray(background).save(folder / f"generated_image{suffix}.png")
        PIL.Image.fromarray(composite(image, matte, background)).save(folder / f"composite{suffix}.png")
        for step, picture in reader.steps(key, variant):
            (folder / f"steps{suffix}").mkdir(exist_ok=True)
            PIL.Image.fromarray(picture).save(folder / f"steps{suffix}" / f"{step}.png")
        record: dict[str, Any] = {"variant": variant}
        for kind in chain.kinds:
            if kind.per_variant:
                made = chain.cache.provenance(chain.name(kind, key, variant)) or {}
                drawn = _drawn(made, chain.recipe) if kind.drawn else {}
                if "seed" not in record:
                    record |= drawn
                record[kind.name] = (_account(made) or {}) | drawn
        trace["variants"].append(record)
    return trace


def _account(provenance: Provenance | None) -> Provenance | None:
    """The part of an entry's provenance that says which backend made it and how long it took."""
    wanted = ("backend", "version", "settings", "seconds")
    return provenance and {name: provenance.get(name) for name in wanted}


def _drawn(provenance: Provenance, recipe: Recipe) -> Provenance:
    """The part of an entry's provenance about seeds and rejected attempts, and what the judges looked for."""
    wanted = ("prompt", "seed", "attempt", "rejected", "steps", *recipe.judges)
    return {name: provenance[name] for name in wanted if name in provenance}


class _Log(logging.FileHandler):
    """A log file."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing: the disk is full, which the pictures will say in one sentence."""


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write the library's log, from INFO up, to this file."""
    library = logging.getLogger("augment")
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = library.level
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(before)
        handler.close()
