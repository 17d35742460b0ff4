"""A contact sheet of a store: images beside what training sees of them, as one plain picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from augment.artifacts import MATTE, Image
from augment.commands.shown import Shown, kinds_of, on_checks, show
from augment.errors import InputError
from augment.store.open import open_store
from augment.store.reader import Reader
from augment.store.records import Store, find_record
from augment.torchvision import ReplaceBackground

_ROWS = 12
_SAMPLES = 3
_HEIGHT, _WIDEST, _GAP, _LINE = 180, 320, 6, 20
_WHITE, _GRAY, _RED = (255, 255, 255), (90, 90, 90), (180, 40, 40)


def write_sheet(store: Store | str | Path, output: Path, recipe: str | None = None, rows: int = _ROWS) -> int:
    """Write a picture with a row for each of at most `rows` images; returns their number.

    A row shows the image, its object, and three samples as the transform gives them by default; or why the image stays
    as it is. Images are taken evenly from the store. Raises StoreError if it holds none whose file is still there,
    InputError if the picture cannot be written.
    """
    store = open_store(store)
    reader = Reader(store, find_record(store, recipe))
    kinds = [kind for kind in kinds_of(reader.record) if kind.makes is MATTE]
    replace = ReplaceBackground(store, p=1.0, recipe=reader.record.background)
    keys = reader.keys(MATTE)  # hashes, so that each n-th one is a fair sample
    images = [show(reader, kinds, key) for key in keys[:: max(1, -(-len(keys) // rows))]]
    images.sort(key=lambda one: (one.group or "", one.source or "", one.key))
    lines = [_row(one, replace) for one in images if one.image is not None]
    if not lines:
        raise InputError(f"{store} has no images to show whose files are still there and unchanged")
    width = max(line.width for line in lines)
    sheet = PIL.Image.new("RGB", (width, sum(line.height for line in lines)), _WHITE)
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    try:
        sheet.save(output)
    except (OSError, ValueError) as error:
        raise InputError(f"{output}: the sheet cannot be written: {error}") from error
    return len(lines)


def _row(one: Shown, replace: ReplaceBackground) -> PIL.Image.Image:
    assert one.image is not None
    matte = one.matte
    pictures = [("image", one.image)]
    if matte is not None:
        pictures.append(("object", on_checks(one.image, matte)))
    reason = "its matte cannot be read" if matte is None else matte.unusable
    if reason is None:
        samples = _samples(one, replace)
        if samples:
            pictures += samples
        else:
            reason = "it has no background yet"
    cells = [(title, _small(picture)) for title, picture in pictures]
    note = f"not used, the image stays as it is: {reason}" if reason else ""
    font = PIL.ImageFont.load_default(13)
    width = sum(cell.width + _GAP for _, cell in cells) + _GAP
    row = PIL.Image.new(
        "RGB", (width + (round(font.getlength(note)) + _GAP if note else 0), _HEIGHT + _LINE + _GAP), _WHITE
    )
    draw = PIL.ImageDraw.Draw(row)
    left = _GAP
    for title, cell in cells:
        draw.text((left, 2), title, _GRAY, font)
        row.paste(cell, (left, _LINE))
        left += cell.width + _GAP
    draw.text((left, _LINE + _HEIGHT // 2), note, _RED, font)
    return row


def _samples(one: Shown, replace: ReplaceBackground) -> list[tuple[str, Image]]:
    """What training would see of it, the same each time."""
    assert one.image is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(one.key[:8], 16))
        drawn = [np.asarray(replace(PIL.Image.fromarray(one.image))) for _ in range(_SAMPLES)]
    return [(f"sample {n}", sample) for n, sample in enumerate(drawn) if not np.array_equal(sample, one.image)]


def _small(picture: Image) -> PIL.Image.Image:
    width = min(_WIDEST, max(1, round(picture.shape[1] * _HEIGHT / picture.shape[0])))
    return PIL.Image.fromarray(picture).resize((width, _HEIGHT), PIL.Image.Resampling.LANCZOS)
