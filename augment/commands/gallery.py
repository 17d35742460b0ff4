"""`augment gallery`: a store as one web page to look through, without a network."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from augment.artifacts import BACKGROUND, MATTE, Image
from augment.commands.shown import Shown, kinds_of, show
from augment.errors import InputError
from augment.prewarming.progress import bar
from augment.store.files import write_atomically
from augment.store.open import open_store
from augment.store.reader import Reader
from augment.store.records import Record, Store, find_record

_BLOCK = 100  # images whose pictures stand together in the page, and are taken apart when one of them comes into view
# Height of the small pictures by their number, so that a page of 10,000 images takes about 80 MB.
_HEIGHTS = ((3_000, 256), (20_000, 128), (50_000, 96))
_LOWEST = 64
_WIDEST = 2.5  # width of a small picture, of its height
_QUALITY = 55  # WebP's


@dataclass
class Totals:
    """What a stage made: how many artifacts, in how many seconds, of how many bytes."""

    count: int = 0
    seconds: float = 0.0
    nbytes: int = 0

    def add(self, seconds: float, nbytes: int) -> None:
        """Count one more."""
        self.count, self.seconds, self.nbytes = self.count + 1, self.seconds + seconds, self.nbytes + nbytes


@dataclass
class _Page:
    """A row per image, its pictures as one WebP image in base64, and the totals of each recipe's stages."""

    height: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    strips: list[str] = field(default_factory=list)
    totals: dict[str, dict[str, Totals]] = field(default_factory=dict)


class _Image(NamedTuple):
    row: dict[str, Any]
    strip: str
    costs: list[tuple[str, float, int]]  # kind, seconds, bytes


def write_gallery(store: Store | str | Path, output: Path, recipe: str | None = None, progress: bool = True) -> int:
    """Write the store as a page to `output`; returns the number of images on it.

    `recipe` names one of the store's recipes; None shows all of them. An image whose file is gone or was changed is
    shown without its original and composites. Raises StoreError if there is nothing to show, InputError if the page
    cannot be written.
    """
    store = open_store(store)
    records = store.recipes() if recipe is None else []
    keys = [
        (record, key) for record in records or [find_record(store, recipe)] for key in Reader(store, record).keys(MATTE)
    ]
    pictures = sum(3 + 2 * record.variants for record, _ in keys)
    page = _Page(next((height for count, height in _HEIGHTS if pictures <= count), _LOWEST))
    with bar("gallery", len(keys), progress) as done, ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(keys), _BLOCK):  # a part at a time, so that few decoded pictures wait
            part = keys[start : start + _BLOCK]
            images = threads.map(partial(_image, store, page.height), part)
            for (record, _), image in zip(part, images, strict=True):
                page.rows.append(image.row)
                page.strips.append(image.strip)
                stages = page.totals.setdefault(record.name, {})
                for kind, seconds, nbytes in image.costs:
                    stages.setdefault(kind, Totals()).add(seconds, nbytes)
                done.advance(1)
    try:
        write_atomically(output, "".join(_html(page, store)).encode())
    except OSError as error:
        raise InputError(f"{output}: the gallery cannot be written: {error.strerror}") from error
    return len(page.rows)


def _image(store: Store, height: int, of: tuple[Record, str]) -> _Image:
    record, key = of
    one = show(Reader(store, record), kinds_of(record), key)
    cells, pictures = [], []
    for title, made, picture in one.pictures():
        small = _small(picture, height)
        pictures.append(small)
        cells.append({"title": title, "width": small.shape[1], "name": made.name if made else None})
    strip = _webp(np.hstack(pictures)) if pictures else ""
    costs = [(made.kind.name, _number(made.provenance.get("seconds")), made.nbytes) for made in one.made]
    return _Image(_row(one, record, cells), strip, costs)


def _row(one: Shown, record: Record, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page tells of an image."""
    matte = one.matte
    variants = []
    for made in one.of(BACKGROUND.name):
        rejected = made.provenance.get("rejected")
        prompt = one.prompt(made.variant)
        variants.append(
            {
                "variant": made.variant,
                "backend": str(made.provenance.get("backend", "")),
                "seed": str(made.provenance.get("seed", "")),
                "rejected": [str(reason) for reason in rejected] if isinstance(rejected, list) else [],
                "prompt": prompt.text if prompt else "",
                "negative": prompt.negative if prompt else "",
            }
        )
    return {
        "key": one.key,
        "source": one.source or "",
        "group": one.group or "",
        "recipe": record.name,
        "unusable": matte.unusable if matte else "it cannot be read",
        "confidence": round(matte.confidence, 3) if matte else 0,
        "coverage": round(matte.coverage, 3) if matte else 0,
        "caption": one.caption or "",
        "variants": variants,
        "wanted": record.variants,
        "original": one.image is not None,
        "cells": cells,
    }


def _html(page: _Page, store: Store) -> Iterator[str]:
    """The template with the data in the place of its mark."""
    template = files("augment.commands").joinpath("gallery.html").read_text(encoding="utf-8")
    head, _, tail = template.partition("<!-- DATA -->\n")
    totals = {
        recipe: [{"stage": name} | asdict(total) for name, total in stages.items()]
        for recipe, stages in page.totals.items()
    }
    data = {
        "store": store.location,
        "root": _root([row["source"] for row in page.rows if row["source"]]),
        "height": page.height,
        "block": _BLOCK,
        "rows": page.rows,
        "totals": totals,
    }
    yield head
    # Captions and file names may be a stranger's: "<" must not end the element that they stand in.
    text = json.dumps(data).replace("<", "\\u003c")
    yield f'<script type="application/json" id="data">{text}</script>\n'
    for start in range(0, len(page.strips), _BLOCK):
        lines = "\n".join(page.strips[start : start + _BLOCK])
        yield f'<script type="text/plain" id="strips-{start // _BLOCK}">{lines}</script>\n'
    yield tail


def _root(sources: list[str]) -> str:
    """The folder that all files are in, with the separator that follows it; nothing if there is none."""
    folders = {os.path.dirname(source) for source in sources}
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # some are absolute, or on different drives
        return ""
    return os.path.join(common, "") if common else ""


def _small(picture: Image, height: int) -> Image:
    width = max(1, min(round(picture.shape[1] * height / picture.shape[0]), round(height * _WIDEST)))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


def _webp(picture: Image) -> str:
    """In base64; at most 16,383 pixels wide, which is WebP's limit."""
    picture = cv2.cvtColor(picture[:, :16383], cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return base64.b64encode(data.tobytes()).decode()


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
