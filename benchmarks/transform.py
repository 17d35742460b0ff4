"""The cost of a hit and of each of its steps, compared with decoding the same image and with well-known transforms.

`python -m benchmarks transform` reports every figure relative to Pillow's decoding of the same image (JPEG, quality 92,
from memory), timed just before it. It also plots the time spent in each step. All times are CPU time of one thread.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import albumentations as A  # noqa: N812  # its own documentation's name for it
import cv2
import numpy as np
import PIL.Image
import PIL.ImageFilter
import torch
from rich.console import Console
from torchvision.transforms import v2

import augment.albumentations
from augment import Cache, Recipe, prewarm
from augment.artifacts import Image, ImageCodec, Matte, decode_image, encode_image
from augment.chain import Chain
from augment.imaging.composite import lay, object_layer, with_edge_colors
from augment.imaging.fit import cover
from augment.imaging.pillow import rgb_image
from augment.keys import image_key, to_rgb
from augment.models.weights import pick_device
from augment.stages.generate import Generator
from augment.stages.remove import Remover
from augment.testing.scenes import scenes
from augment.torchvision import Layers, ReplaceBackground, ReplaceBackgroundBatch
from benchmarks.timing import Figure, OldFigures, finish, ratios, show, side_by_side

CODECS: tuple[ImageCodec, ...] = get_args(ImageCodec)
SIZES = (224, 512, 1024)
_QUALITY = 92  # of the images' JPEG
_SEED = 7
_PASSES = 3  # over all images, each time a candidate is timed
# At 512 x 512, relative to Pillow's decoding.
GOALS = {"raw": 0.25, "jpeg": 0.8}
_TIMES_FASTER_THAN_FORAUG = 10


@dataclass(frozen=True)
class Sample:
    """One image in all forms that the candidates need, with its true matte and its background."""

    file: bytes
    matte: Matte
    background: Image

    @cached_property
    def pil(self) -> PIL.Image.Image:
        with PIL.Image.open(io.BytesIO(self.file)) as file:
            return file.convert("RGB")

    @cached_property
    def array(self) -> Image:
        return np.array(self.pil)

    @cached_property
    def tensor(self) -> torch.Tensor:
        return torch.from_numpy(self.array).permute(2, 0, 1).contiguous()

    @cached_property
    def key(self) -> str:
        return image_key(self.array)

    @cached_property
    def background_file(self) -> bytes:
        return _file(PIL.Image.fromarray(self.background), "JPEG", quality=_QUALITY)

    @cached_property
    def mask_file(self) -> bytes:
        return _file(PIL.Image.fromarray(self.matte.uncropped()), "PNG")

    @cached_property
    def cutout_file(self) -> bytes:
        left, top, right, bottom = self.matte.box
        cutout = np.dstack([self.array[top:bottom, left:right], self.matte.alpha])
        return _file(PIL.Image.fromarray(cutout), "WEBP")


def main(
    quick: bool = False, json: Path | None = None, compare: OldFigures = None, out: Path = Path("benchmarks/out")
) -> None:
    """Print the ratios at each size, and plot the steps at 512 x 512 to `out`.

    The figures are written to `json`. `compare` is such a file from an earlier run; what became slower is printed.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    console = Console()
    figures: dict[str, Figure] = {}
    for size in (512,) if quick else SIZES:
        count, rounds = (4, 10) if quick else (8, 15)
        with tempfile.TemporaryDirectory() as folder:
            stores, samples = fill(Path(folder), size, count)
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


def fill(folder: Path, size: int, count: int) -> tuple[dict[ImageCodec, Cache], list[Sample]]:
    """A store per codec, with true mattes and backgrounds from the classic recipe."""
    recipe = Recipe.load("classic")
    store = Cache(folder / "png", codec="png")
    chain = Chain(recipe, store)
    (folder / "images").mkdir()
    for number, scene in enumerate(scenes(count, size, seed=_SEED)):
        path = folder / "images" / f"{number:03}.jpg"
        path.write_bytes(_file(PIL.Image.fromarray(scene.image), "JPEG", quality=_QUALITY))
        image = to_rgb(PIL.Image.open(path))
        matte = with_edge_colors(Matte.from_full(scene.alpha), image)
        store.put(chain.name(Remover.kind, image_key(image)), matte.to_bytes(), {})
    report = prewarm(folder / "images", store, recipe, workers=0, progress=False)
    if report.complete < count:
        raise RuntimeError(f"some images have no background: {report}")
    stores: dict[ImageCodec, Cache] = {"png": store}
    for codec in CODECS:
        if codec not in stores:
            stores[codec] = recoded(store, Cache(folder / codec, codec=codec))
    samples = []
    for path in sorted((folder / "images").iterdir()):
        key = image_key(PIL.Image.open(path))
        matte, background = chain.artifact(Remover.kind, key), chain.artifact(Generator.kind, key, 0)
        samples.append(Sample(path.read_bytes(), matte, background))
    return stores, samples


def recoded(store: Cache, into: Cache) -> Cache:
    """Copy everything from a store into another, with backgrounds re-encoded by the other's codec."""
    for record in store.recipes():
        into.add_record(record)
    for name in store.names():
        data = store.get(name)
        if data is not None:
            background = name.startswith("background/")
            payload = encode_image(decode_image(data), into.codec, into.quality) if background else bytes(data)
            into.put(name, payload, store.provenance(name) or {})
    return into


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
            figures[name] = Figure.of(beside[name], GOALS.get(codec) if size == 512 else None)
    for codec in stores:
        faster = ratios(beside["ForAug's recombination"], beside[f"a hit, {codec}, array"])
        goal = _TIMES_FASTER_THAN_FORAUG if size == 512 and codec in GOALS else None
        figures[f"a hit, {codec}: times faster than ForAug's"] = Figure.of(faster, goal, more_is_better=True)
    for name, values in beside.items():
        if name not in figures and name != "Pillow decodes":
            figures[name] = Figure.of(values)
    return figures, milliseconds


def _hits(codec: str, store: Cache, samples: list[Sample]) -> dict[str, Callable[[int], object]]:
    torchvision = ReplaceBackground(store, p=1)
    albumentations = A.Compose([augment.albumentations.ReplaceBackground(store, p=1)])
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
    batch = ReplaceBackgroundBatch(store, p=1)
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


def _file(image: PIL.Image.Image, form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()
