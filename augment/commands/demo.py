"""`augment demo`: the whole workflow on a few real photographs."""

from __future__ import annotations

import time
from pathlib import Path

import PIL.Image
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment.commands.sheet import write_sheet
from augment.commands.shown import kinds_of, show
from augment.errors import InputError
from augment.keys import image_key
from augment.prewarming import prewarm
from augment.recipe import Recipe
from augment.store.cache import Cache
from augment.store.reader import Reader
from augment.torchvision import ReplaceBackground

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
VARIANTS = 3
STEPS, BATCH = 12, 16


def run(folder: Path, progress: bool = True) -> str:
    """Write the pictures to `folder` and train for a few steps; returns a summary.

    Raises InputError if scikit-image, which contains the photographs, is not installed.
    """
    photos = _copy_photos(folder / "photos")
    # By default the remover rejects the astronaut's matte, because it misses her helmet. A person will look at the
    # result here, so show it.
    recipe = Recipe.load("classic").changed({"remove.doubt": 0.5})
    cache = Cache(folder / "cache")
    report = prewarm(folder / "photos", cache, recipe, variants=VARIANTS, progress=progress)
    reader = Reader(cache, recipe.record(VARIANTS))
    for path in photos:
        _write_pictures(path, reader, folder / "pictures" / path.stem)
    write_sheet(cache, folder / "sheet.png")
    return "\n".join(
        (
            f"{report}\n\n{_train(folder / 'photos', cache)}\n",
            f"Pictures: {folder / 'sheet.png'} and {folder / 'pictures'}",
            "Next: augment prewarm YOUR_IMAGES --cache YOUR_CACHE --variants 4 --sheet sheet.png",
        )
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


def _write_pictures(path: Path, reader: Reader, folder: Path) -> None:
    """Write everything that the chain made from one photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    with PIL.Image.open(path) as file:
        key = image_key(file)
    for title, _, picture in show(reader, kinds_of(reader.record), key).pictures():
        PIL.Image.fromarray(picture).save(folder / f"{title.replace(' ', '_')}.png")


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
