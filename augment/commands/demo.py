"""`augment demo`: the whole workflow on a few real photographs."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment.artifacts import BACKGROUND, MATTE, PLATE, Image, Matte
from augment.errors import InputError
from augment.imaging.composite import composite, cutout
from augment.keys import image_key, to_rgb
from augment.prewarming import prewarm
from augment.recipe import Recipe
from augment.store.cache import Cache
from augment.store.reader import Reader
from augment.torchvision import ReplaceBackground

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
VARIANTS = 3
STEPS, BATCH = 12, 16


def run(folder: Path) -> str:
    """Write the pictures to `folder` and train for a few steps; returns a summary.

    Raises InputError if scikit-image, which contains the photographs, is not installed.
    """
    photos = _copy_photos(folder / "photos")
    # By default the remover rejects the astronaut's matte, because it misses her helmet. A person will look at the
    # result here, so show it.
    recipe = Recipe.load("classic").changed({"remove.doubt": 0.5})
    cache = Cache(folder / "cache")
    report = prewarm(folder / "photos", cache, recipe, variants=VARIANTS)
    reader = Reader(cache, recipe.record(VARIANTS))
    sheets = [_write_pictures(path, reader, folder / "pictures") for path in photos]
    PIL.Image.fromarray(_stack(sheets)).save(folder / "sheet.png")
    return (
        f"{report}\n\n{_train(folder / 'photos', cache)}\n\nPictures: {folder / 'sheet.png'} and {folder / 'pictures'}"
    )


def _copy_photos(folder: Path) -> list[Path]:
    """Copy the photographs out of scikit-image, each into its own class folder."""
    try:
        import skimage
    except ImportError as error:
        raise InputError(
            'the demo needs the photographs from scikit-image: pip install "augment-backgrounds[demo]"'
        ) from error
    paths = []
    for name in PHOTOS:
        path = folder / Path(name).stem / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((Path(skimage.__file__).parent / "data" / name).read_bytes())
        paths.append(path)
    return paths


def _write_pictures(path: Path, reader: Reader, folder: Path) -> Image:
    """Write everything that the chain made from one photograph; returns it as one row of pictures."""
    image = to_rgb(PIL.Image.open(path))
    key = image_key(image)
    folder = folder / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    matte = reader.get(MATTE, key)
    row = {"image": image}
    if matte is not None and not matte.unusable:
        PIL.Image.fromarray(cutout(image, matte)).save(folder / "cutout.png")
        row["cutout"] = _on_checks(image, matte)
        plate = reader.get(PLATE, key)
        if plate is not None:
            row["plate"] = plate
        for variant in range(VARIANTS):
            background = reader.get(BACKGROUND, key, variant)
            if background is not None:
                row[f"background {variant}"] = background
                row[f"composite {variant}"] = composite(image, matte, background)
    for name, picture in row.items():
        if name != "cutout":
            PIL.Image.fromarray(picture).save(folder / f"{name.replace(' ', '_')}.png")
    sheet = _row(row)
    PIL.Image.fromarray(sheet).save(folder / "sheet.png")
    return sheet


def _train(folder: Path, cache: Cache) -> str:
    """Train a small network for a few steps on the photographs; two workers replace the backgrounds."""
    replace = ReplaceBackground(cache, p=1.0)
    transform = v2.Compose(
        [
            replace,
            v2.RandomResizedCrop(96, scale=(0.3, 1.0), antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    dataset = ImageFolder(folder, transform)
    sampler = RandomSampler(dataset, replacement=True, num_samples=STEPS * BATCH)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=2)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, len(dataset.classes))),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    started = time.perf_counter()
    for images, labels in loader:
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    counts = ", ".join(f"{count} {name}" for name, count in replace.counts.items() if count or name == "misses")
    return (
        f"Trained {STEPS} steps of {BATCH} with two workers: {counts}; "
        f"{STEPS * BATCH / seconds:.0f} images per second, loss {losses[0]:.2f} → {losses[-1]:.2f}"
    )


def _on_checks(image: Image, matte: Matte) -> Image:
    """The object over a gray checkerboard, the usual sign for transparency."""
    height, width = matte.size
    rows, columns = np.arange(height)[:, None] // 16, np.arange(width)[None] // 16
    checks = np.where((rows + columns) % 2, 235, 255).astype(np.uint8)
    return composite(image, matte, np.repeat(checks[..., None], 3, axis=2))


def _row(pictures: dict[str, Image], height: int = 200) -> Image:
    cells = []
    for name, picture in pictures.items():
        width = round(picture.shape[1] * height / picture.shape[0])
        cell = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        cell = cv2.copyMakeBorder(cell, 24, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        cells.append(cv2.putText(cell, name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA))
    return np.hstack(cells)


def _stack(rows: list[Image]) -> NDArray[np.uint8]:
    width = max(row.shape[1] for row in rows)
    white = (255, 255, 255)
    return np.vstack(
        [cv2.copyMakeBorder(r, 0, 0, 0, width - r.shape[1], cv2.BORDER_CONSTANT, value=white) for r in rows]
    )
