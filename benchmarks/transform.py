"""The cost of a hit and of each of its steps, compared with decoding the same image and with well-known transforms.

`python -m benchmarks transform` reports every figure relative to Pillow's decoding of the same image (JPEG, quality 92,
from memory), timed just before it. The rows with a goal come first: images of mixed sizes, as people train. Then come
every form and step at fixed sizes, and a plot of the time spent in each step. All times are CPU time of one thread.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812  # its own documentation's name for it
import cv2
import numpy as np
import PIL.Image
import PIL.ImageFilter
import torch
from rich.console import Console
from torchvision.transforms import v2

import augment.albumentations
from augment import Cache, Recipe
from augment.artifacts import ImageCodec, Matte, decode_image
from augment.chain import Chain
from augment.imaging.composite import lay, object_layer
from augment.imaging.fit import cover
from augment.imaging.pillow import rgb_image
from augment.keys import image_key, to_rgb
from augment.models.weights import pick_device
from augment.stages.generate import Generator
from augment.stages.remove import Remover
from augment.torchvision import Layers, ReplaceBackground, ReplaceBackgroundBatch
from benchmarks.budget import array_rows, mixed_rows
from benchmarks.samples import MIXED, Sample, fill, mixed, squares
from benchmarks.timing import Figure, OldFigures, finish, ratios, show, side_by_side

SIZES = (224, 512, 1024)
_PASSES = 3  # over all images, each time a candidate is timed


def main(
    quick: bool = False, json: Path | None = None, compare: OldFigures = None, out: Path = Path("benchmarks/out")
) -> None:
    """Print the ratios at each size, and plot the steps at 512 x 512 to `out`.

    The figures are written to `json`. `compare` is such a file from an earlier run; what became slower is printed.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        stores, samples = fill(Path(folder), mixed(len(MIXED) if quick else 2 * len(MIXED)), ["jpeg"])
        figures = mixed_rows(stores["jpeg"], samples, 8 if quick else 20)
    with tempfile.TemporaryDirectory() as folder:
        stores, samples = fill(Path(folder), squares(8, 512), ["jpeg", "raw"])
        figures |= array_rows(stores, samples, 8 if quick else 20)
    smallest, largest = min(map(min, MIXED)), max(map(max, MIXED))
    caption = f"images of {len(MIXED)} sizes with sides of {smallest} to {largest} pixels, PIL in and out"
    show("The budget: relative to Pillow's decoding of the same image", figures, console, caption)
    for size in (512,) if quick else SIZES:
        count, rounds = (4, 10) if quick else (8, 15)
        with tempfile.TemporaryDirectory() as folder:
            stores, samples = fill(Path(folder), squares(count, size))
            at_size, milliseconds = measure(stores, samples, size, rounds)
        show(
            f"{size} x {size}, {count} images, {rounds} rounds: relative to Pillow's decoding of the same image",
            at_size,
            console,
            f"Pillow's decoding: {Figure.of(milliseconds['Pillow decodes'])} ms; an object covers "
            f"{np.mean([sample.matte.coverage for sample in samples]):.0%} on average",
        )
        figures |= {f"{size}: {name}": figure for name, figure in at_size.items()}
        if size == 512:
            out.mkdir(parents=True, exist_ok=True)
            plot(milliseconds, out / "transform.png")
            console.print(f"the steps are plotted to {out / 'transform.png'}", highlight=False)
    finish(figures, json, compare, console)


def measure(
    stores: dict[ImageCodec, Cache], samples: list[Sample], size: int, rounds: int
) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    """Ratios to Pillow's decoding by candidate, and every candidate's milliseconds per round."""

    def decode(number: int) -> None:
        PIL.Image.open(io.BytesIO(samples[number].file)).load()

    candidates: dict[str, Callable[[int], object]] = {
        "Pillow decodes": decode,
        "OpenCV decodes": lambda n: cv2.imdecode(np.frombuffer(samples[n].file, np.uint8), cv2.IMREAD_COLOR_RGB),
    }
    for codec, store in stores.items():
        candidates |= _hits(codec, store, samples)
        candidates |= _steps(codec, store, samples)
    candidates |= _batched(stores["raw"], samples)
    candidates |= _others(samples, size)
    for candidate in candidates.values():  # fills the samples' cached properties
        for number in range(len(samples)):
            candidate(number)
    milliseconds, beside = side_by_side(candidates, decode, len(samples), rounds, _PASSES)
    figures = {}
    for codec in stores:
        for form in ("array", "PIL", "tensor"):
            name = f"a hit, {codec}, {form}"
            figures[name] = Figure.of(beside[name])
    for codec in stores:
        faster = ratios(beside["ForAug's recombination"], beside[f"a hit, {codec}, array"])
        figures[f"a hit, {codec}: times faster than ForAug's"] = Figure.of(faster, more_is_better=True)
    for name, values in beside.items():
        if name not in figures and name != "Pillow decodes":
            figures[name] = Figure.of(values)
    return figures, milliseconds


def _hits(codec: str, store: Cache, samples: list[Sample]) -> dict[str, Callable[[int], object]]:
    torchvision = ReplaceBackground(store, p=1, source="own")
    albumentations = A.Compose([augment.albumentations.ReplaceBackground(store, p=1, source="own")])
    return {
        f"a hit, {codec}, array": lambda n: albumentations(image=samples[n].array),
        f"a hit, {codec}, PIL": lambda n: torchvision(samples[n].pil),
        f"a hit, {codec}, tensor": lambda n: torchvision(samples[n].tensor),
    }


def _steps(codec: ImageCodec, store: Cache, samples: list[Sample]) -> dict[str, Callable[[int], object]]:
    """The steps of a hit one by one; those that do not depend on the codec appear only once."""
    chain = Chain(Recipe.load("classic"), store)
    size = samples[0].array.shape[:2]
    names = [(chain.name(Remover.kind, sample.key), chain.name(Generator.kind, sample.key, 0)) for sample in samples]
    mattes = [bytes(store.get(matte) or b"") for matte, _ in names]
    backgrounds = [bytes(store.get(background) or b"") for _, background in names]
    layers = [object_layer(sample.array, sample.matte, sample.background) for sample in samples]
    canvas = [sample.background.copy() for sample in samples]
    other = [cv2.resize(sample.background, (size[1] * 4 // 3, size[0])) for sample in samples]
    steps: dict[str, Callable[[int], object]] = {
        f"step: background lookup, {codec}": lambda n: store.get(names[n][1]),
        f"step: background decode, {codec}": lambda n: decode_image(backgrounds[n], at_least=size),
    }
    if codec != "raw":
        return steps
    return steps | {
        "step: array of a PIL image": lambda n: to_rgb(samples[n].pil),
        "step: key": lambda n: image_key(samples[n].array),
        "step: matte lookup": lambda n: store.get(names[n][0]),
        "step: matte decode": lambda n: Matte.from_bytes(mattes[n]),
        "step: fit of a 4:3 background": lambda n: cover(other[n], *size),
        "step: object's colors": lambda n: object_layer(samples[n].array, samples[n].matte, samples[n].background),
        "step: blend": lambda n: lay(layers[n], canvas[n]),
        "step: PIL image of the composite": lambda n: rgb_image(samples[n].array),
    }


def _batched(store: Cache, samples: list[Sample]) -> dict[str, Callable[[int], object]]:
    """The two halves of the batched form, in the worker and in the training loop, for one image."""
    batch = ReplaceBackgroundBatch(store, p=1, source="own")
    device = pick_device()
    layers: list[Layers] = [batch.collate([sample.tensor]).to(device) for sample in samples]

    def blend(number: int) -> None:
        batch(layers[number])
        if device != "cpu":
            torch.cuda.synchronize()

    return {
        "batched: the worker's half, raw": lambda n: batch.collate([samples[n].tensor]),
        f"batched: the blend, on {device}": blend,
    }


def _others(samples: list[Sample], size: int) -> dict[str, Callable[[int], object]]:
    """Other ways to do the same, and other transforms."""
    draw = random.Random(0)

    def with_pillow(number: int) -> PIL.Image.Image:
        background = PIL.Image.open(io.BytesIO(samples[number].background_file)).convert("RGB")
        mask = PIL.Image.open(io.BytesIO(samples[number].mask_file))
        return PIL.Image.composite(samples[number].pil, background, mask)

    def with_foraug(number: int) -> PIL.Image.Image:
        """Recombination as described in ForAug's paper (arXiv 2503.09399).

        A cutout (WebP) and a background (JPEG) are decoded. The background is resized to the image's size, the cutout
        to between 0.7 and 1.3 times its area. The cutout's mask is smoothed by a Gaussian of random width, and the
        cutout is pasted at a random position.
        """
        background = PIL.Image.open(io.BytesIO(samples[number].background_file)).convert("RGB")
        background = background.resize((size, size), PIL.Image.Resampling.BILINEAR)
        cutout = PIL.Image.open(io.BytesIO(samples[number].cutout_file)).convert("RGBA")
        scale = draw.uniform(0.7, 1.3) ** 0.5
        width, height = (min(size, max(1, round(side * scale))) for side in cutout.size)
        cutout = cutout.resize((width, height), PIL.Image.Resampling.BILINEAR)
        mask = cutout.getchannel("A").filter(PIL.ImageFilter.GaussianBlur(draw.uniform(0.4, 4)))
        background.paste(cutout, (draw.randint(0, size - width), draw.randint(0, size - height)), mask)
        return background

    albumentations = {
        "Affine": A.Affine(scale=(0.8, 1.2), rotate=(-15, 15), p=1),
        "ColorJitter": A.ColorJitter(p=1),
        "RandomResizedCrop": A.RandomResizedCrop((224, 224), p=1),
    }
    torchvision = {
        "RandomAffine": v2.RandomAffine(15, scale=(0.8, 1.2)),
        "ColorJitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        "RandomResizedCrop": v2.RandomResizedCrop(224),
        "TrivialAugmentWide": v2.TrivialAugmentWide(),
    }
    return (
        {"the same composite in Pillow": with_pillow, "ForAug's recombination": with_foraug}
        | {f"albumentations: {name}": _on_arrays(transform, samples) for name, transform in albumentations.items()}
        | {f"torchvision: {name}, PIL": _on_pil(transform, samples) for name, transform in torchvision.items()}
    )


def _on_arrays(transform: Any, samples: list[Sample]) -> Callable[[int], object]:
    return lambda n: transform(image=samples[n].array)


def _on_pil(transform: Any, samples: list[Sample]) -> Callable[[int], object]:
    return lambda n: transform(samples[n].pil)


def plot(milliseconds: dict[str, list[float]], path: Path) -> None:
    """Plot the time spent in each step of a hit, one bar per codec and form, compared with decoding."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    median = {name: float(np.median(values)) for name, values in milliseconds.items()}
    drawing = Drawing(figsize=(8, 3.6), layout="constrained")
    axes = drawing.add_subplot()
    colors: dict[str, Any] = {}
    for codec in ("png", "jpeg", "raw"):
        for form in ("PIL", "array"):
            steps = [
                "key",
                "matte lookup",
                "matte decode",
                f"background lookup, {codec}",
                f"background decode, {codec}",
                "object's colors",
                "blend",
            ]
            if form == "PIL":
                steps = ["array of a PIL image", *steps, "PIL image of the composite"]
            left, bar = 0.0, f"hit, {codec}, {form}"
            for step in steps:
                label = step.partition(",")[0]
                (patch,) = axes.barh(
                    bar,
                    median[f"step: {step}"],
                    left=left,
                    color=colors.get(label),
                    label=None if label in colors else label,
                )
                colors.setdefault(label, patch.get_facecolor())
                left += median[f"step: {step}"]
            rest = max(0.0, median[f"a {bar}"] - left)
            axes.barh(bar, rest, left=left, color="lightgrey", label=None if "rest" in colors else "draws, calls, rest")
            colors["rest"] = "lightgrey"
    for name, style in (("Pillow decodes", "-"), ("OpenCV decodes", ":"), ("ForAug's recombination", "--")):
        axes.axvline(median[name], color="black", linestyle=style, linewidth=1, label=name)
    axes.set_xlabel("milliseconds per image of 512 x 512, one thread")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    FigureCanvasAgg(drawing).print_png(str(path))
