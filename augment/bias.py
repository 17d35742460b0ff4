"""How much a classifier relies on the background, the position and the size of the object: a table and a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F  # noqa: N812  # torchvision's own name for it

from augment.artifacts import MATTE, PLATE, Image, Matte
from augment.errors import InputError, UnavailableError
from augment.imaging.composite import composite
from augment.imaging.fit import cover
from augment.keys import image_key, to_rgb
from augment.sampling.placement import Matrix, Placement, PlacementDraws, place
from augment.sampling.recipes import record_for
from augment.sampling.sources import Source
from augment.store.open import open_store
from augment.store.pool import Pool
from augment.store.reader import Reader
from augment.store.records import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe

SIZES = (0.5, 0.75, 1.25, 1.5)
_LEAK = 0.05  # BG-Gap from which on the background is taken to give the class away
_STRONG_LEAK = 0.5
_UNEVEN = 0.2  # center bias, or loss of accuracy at another size, from which on the object should be moved or scaled
_CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2))
_SIDES = ((0, 1), (1, 0), (1, 2), (2, 1))


@dataclass(frozen=True)
class Bias:
    """Accuracies, each 0 to 1, of a classifier on `count` images and on variations of them.

    The terms are those of the Backgrounds Challenge (Xiao et al., "Noise or Signal", arXiv 2006.09994): `original` is
    the image itself, `mixed_same` its object in front of the plate of another image of its class, `mixed_rand` in
    front of that of an image of a random class, `only_fg` in front of black.

    `position[row][column]` is the accuracy with the object in that cell of a 3 x 3 grid, `size` the accuracy with the
    object scaled by each factor, including 1; both in front of the backgrounds of `mixed_rand`. `skipped` images have
    no usable matte or no other image's plate in the store, and are not counted. `worst_group` is the class with the
    lowest accuracy on the images of `mixed_rand`, and that accuracy.
    """

    original: float
    mixed_same: float
    mixed_rand: float
    only_fg: float
    position: tuple[tuple[float, ...], ...]
    size: Mapping[float, float]
    count: int
    skipped: int
    worst_group: tuple[str, float] | None = None

    @property
    def bg_gap(self) -> float:
        """Mixed-Same minus Mixed-Rand: how much the classifier gains from a background that fits the class."""
        return self.mixed_same - self.mixed_rand

    @property
    def center_bias(self) -> float:
        """1 - (worst corner + worst side) / (2 x center), after ForAug (arXiv 2503.09399): 0 is no bias, 1 is blind
        outside the center. NaN if the center's accuracy is 0."""
        corner = min(self.position[row][column] for row, column in _CORNERS)
        side = min(self.position[row][column] for row, column in _SIDES)
        center = self.position[1][1]
        return 1 - (corner + side) / (2 * center) if center else float("nan")

    @property
    def relative_size(self) -> dict[float, float]:
        """Accuracy at each factor of the object's size, divided by the accuracy at its own size; NaN if that is 0."""
        own = self.size[1.0]
        return {factor: accuracy / own if own else float("nan") for factor, accuracy in self.size.items()}

    @property
    def advice(self) -> list[str]:
        """What to train with, drawn from what was measured: one sentence for each finding.

        The share `p` for a leak is that of an independent trial in which the background gave the class away: p 0.25,
        0.5, 0.75 and 1 gave 39, 57, 65 and 68 % right where no augmentation gave 16.5.
        """
        gap = f"gap {100 * self.bg_gap:.0f} points"
        if self.bg_gap > max(_LEAK, np.sqrt(0.5 / self.count)):  # the standard deviation of a difference by chance
            p = 1 if self.bg_gap > _STRONG_LEAK else 0.75
            found = [f'{gap}: take p={p:g} and source="pool:other"']
        else:
            found = [f'{gap}: the background hardly helps the classifier; p=0.5 and source="pool" are enough']
        if self.center_bias > _UNEVEN:
            found.append(f'center bias {self.center_bias:.2f}: take placement=Placement(translate="uniform")')
        smaller = [factor for factor, share in self.relative_size.items() if share < 1 - _UNEVEN]
        if smaller:
            low, high = min(1.0, *smaller), max(1.0, *smaller)
            found.append(f"accuracy falls with the object's size: take placement=Placement(scale=({low:g}, {high:g}))")
        return found

    def __str__(self) -> str:
        rows = [(name, f"{accuracy:7.1%}") for name, accuracy in self._mixes().items()]
        rows.append(("BG-Gap", f"{100 * self.bg_gap:+6.1f} points"))
        for name, cells in zip(("position", "", ""), self.position, strict=True):
            rows.append((name, " ".join(f"{cell:7.1%}" for cell in cells)))
        rows.append(("center bias", f"{self.center_bias:7.3f}"))
        relative = self.relative_size
        rows.append(("size", " ".join(f"{f'x{factor:g}':>7}" for factor in relative)))
        rows.append(("relative", " ".join(f"{share:7.2f}" for share in relative.values())))
        if self.worst_group is not None:
            name, accuracy = self.worst_group
            rows.append(("worst group", f"{accuracy:7.1%} {name} (Mixed-Rand)"))
        lines = [f"{name:<12}{values}" for name, values in rows]
        return "\n".join([*lines, f"of {self.count} images, {self.skipped} more skipped", *self.advice])

    def plot(self, path: str | Path) -> None:
        """Draw the table to `path`, in the format of its suffix. Raises UnavailableError if matplotlib is missing."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UnavailableError("a plot needs matplotlib, which is not installed: pip install matplotlib") from error
        # Figure instead of pyplot: it has no global state and opens no window.
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        mixes, cells, sizes = figure.subplots(1, 3)
        bars = mixes.bar(list(self._mixes()), list(self._mixes().values()), color="#4c72b0")
        mixes.bar_label(bars, fmt="{:.0%}")
        mixes.set(ylim=(0, 1.08), ylabel="accuracy", title=f"BG-Gap {100 * self.bg_gap:+.1f} points")
        mixes.tick_params(axis="x", labelsize=8)
        cells.imshow(self.position, vmin=0, vmax=1, cmap="viridis")
        for row, accuracies in enumerate(self.position):
            for column, accuracy in enumerate(accuracies):
                color = "black" if accuracy > 0.6 else "white"
                cells.text(column, row, f"{accuracy:.0%}", ha="center", va="center", color=color)
        cells.set(xticks=[], yticks=[], xlabel="position of the object", title=f"center bias {self.center_bias:.3f}")
        sizes.plot(list(self.relative_size), list(self.relative_size.values()), marker="o", color="#4c72b0")
        sizes.axhline(1, color="grey", linewidth=0.8)
        sizes.set(xlabel="factor of the object's size", ylabel="accuracy, relative to 1", title="size")
        sizes.set_ylim(bottom=0)
        figure.savefig(path)

    def _mixes(self) -> dict[str, float]:
        return {
            "Original": self.original,
            "Mixed-Same": self.mixed_same,
            "Mixed-Rand": self.mixed_rand,
            "Only-FG": self.only_fg,
        }


def measure(
    classifier: Callable[[torch.Tensor], torch.Tensor],
    dataset: Any,
    store: Store | str | Path,
    *,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    sizes: Sequence[float] = SIZES,
    recipe: str | Path | Recipe | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Bias:
    """Measure a classifier's bias towards the background, the position and the size of the object.

    Args:
        classifier: from a batch `(N, 3, H, W)` to logits `(N, classes)`. A `torch.nn.Module` is called on its own
            device in evaluation mode; its mode is restored.
        dataset: map-style; each item starts with an image and its label, an int. No random transforms: images are
            looked up in the store by their pixels.
        store: a store, or its path, that `dataset` was prewarmed to with its classes as groups.
        transform: from an image `(3, H, W)` uint8 to the classifier's input: resize, normalize, … None scales it to
            float 0 … 1.
        sizes: factors of the object's size; an object too large for the image is shrunk to fit.
        recipe: which of the store's recipes: a name, a TOML file or a Recipe; None is the latest one.
        batch_size: number of images per call of the classifier.
        seed: of the choice of backgrounds, which depends on neither the classifier nor the batch.

    In a cell of the grid the object is centered, and no larger than the cell. A random class is drawn first, uniformly,
    then one of its images. Raises InputError if no image can be measured or if the store knows no classes, and
    StoreError if the store cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} is not a number of images, 1 or more")
    if not all(0 < factor < float("inf") for factor in sizes):
        raise InputError(f"sizes: {tuple(sizes)!r} are not all factors above 0")
    mixer = _Mixer(open_store(store), recipe, sizes, seed)
    samples = [mixer.look_up(index, *dataset[index][:2]) for index in range(len(dataset))]
    usable = [sample for sample in samples if sample is not None]
    groups = sorted({sample.group for sample in usable if sample.group})
    if not usable:
        raise InputError(f"{mixer.store} has no usable matte for any image of the dataset: prewarm this very Dataset")
    if len(groups) < 2:
        raise InputError(
            f"{mixer.store} knows no classes to mix: prewarm with `groups=`, a Dataset that has `classes`, or a folder "
            "of class folders"
        )
    right: dict[Any, int] = {}
    by_group: dict[str, list[bool]] = {}
    measured: set[int] = set()

    def views() -> Iterator[tuple[Any, Image, _Sample]]:
        for sample in usable:
            image = to_rgb(dataset[sample.index][0])
            for condition, view in mixer.views(sample, image, groups):
                measured.add(sample.index)
                yield condition, view, sample

    with _evaluating(classifier) as device, torch.no_grad():
        remaining = views()
        while batch := list(islice(remaining, batch_size)):
            conditions, images, shown = zip(*batch, strict=True)
            guesses = classifier(_stacked(images, transform).to(device)).argmax(1).tolist()
            for condition, guess, sample in zip(conditions, guesses, shown, strict=True):
                right[condition] = right.get(condition, 0) + (guess == sample.label)
                if condition == "mixed_rand":
                    by_group.setdefault(sample.group, []).append(guess == sample.label)
    if not measured:
        raise InputError(f"{mixer.store} has no plate of another image of the same class for any image of the dataset")
    count = len(measured)
    share = {condition: hits / count for condition, hits in right.items()}
    return Bias(
        original=share["original"],
        mixed_same=share["mixed_same"],
        mixed_rand=share["mixed_rand"],
        only_fg=share["only_fg"],
        position=tuple(tuple(share["cell", row, column] for column in range(3)) for row in range(3)),
        size={factor: share["size", factor] if factor != 1 else share["mixed_rand"] for factor in mixer.sizes},
        count=count,
        skipped=len(samples) - count,
        worst_group=min(((group, sum(hits) / len(hits)) for group, hits in by_group.items()), key=lambda pair: pair[1]),
    )


@dataclass(frozen=True)
class _Sample:
    index: int
    label: int
    key: str
    group: str  # "" if the store knows none, and so no other image of the same group


class _Mixer:
    """Finds an image's matte and other images' plates, and recombines them."""

    def __init__(self, store: Store, recipe: str | Path | Recipe | None, sizes: Sequence[float], seed: int) -> None:
        self.store = store
        self.reader = Reader(store, record_for(store, recipe))
        self.pool = Pool(store.pool(self.reader.record), Source.max_coverage)
        self.sizes = tuple(sorted({1.0, *map(float, sizes)}))
        self.seed = seed

    def look_up(self, index: int, image: Any, label: int) -> _Sample | None:
        """None if there is no usable matte."""
        key = image_key(image)
        matte = self.reader.get(MATTE, key)
        if matte is None or matte.unusable:
            return None
        return _Sample(index, int(label), key, self.reader.group(key) or "")

    def views(self, sample: _Sample, image: Image, groups: Sequence[str]) -> Iterator[tuple[Any, Image]]:
        """The image and its recombinations by condition; none if other images' plates are missing."""
        rng = np.random.default_rng([self.seed, sample.index])
        same, other = rng.random(2)
        group = groups[int(rng.integers(len(groups)))]
        matte = self.reader.get(MATTE, sample.key)
        size = image.shape[:2]
        own_class, random_class = self._plate(sample, sample.group, same, size), self._plate(sample, group, other, size)
        if matte is None or own_class is None or random_class is None:
            return
        yield "original", image
        yield "mixed_same", composite(image, matte, own_class)
        yield "mixed_rand", composite(image, matte, random_class)
        yield "only_fg", composite(image, matte, np.zeros_like(image))
        for row in range(3):
            for column in range(3):
                yield (
                    ("cell", row, column),
                    composite(image, matte, random_class, matrix=_into_cell(matte, row, column)),
                )
        for factor in self.sizes:
            if factor != 1:
                move = place(Placement(scale=(factor, factor)), matte, PlacementDraws(0, 0, 0, 1, 0))
                matrix = None if move is None else move.matrix
                yield ("size", factor), composite(image, matte, random_class, matrix=matrix)

    def _plate(self, sample: _Sample, group: str, uniform: float, size: tuple[int, ...]) -> Image | None:
        """The plate of another image of the group."""
        for key, _ in self.pool.draw("same", group, uniform):
            plate = None if key == sample.key else self.reader.get(PLATE, key)
            if plate is not None:
                return cover(plate, size[0], size[1])
        return None


def _into_cell(matte: Matte, row: int, column: int) -> Matrix:
    """The map to the middle of a cell of the 3 x 3 grid, no larger than the cell."""
    height, width = matte.size
    left, top, right, bottom = matte.box
    scale = min(1.0, width / 3 / (right - left), height / 3 / (bottom - top))
    target = np.array([(column + 0.5) * width / 3, (row + 0.5) * height / 3])
    center = np.array([left + right, top + bottom]) / 2
    return np.column_stack([scale * np.eye(2), target - scale * center])


def _stacked(images: Sequence[Image], transform: Callable[[torch.Tensor], torch.Tensor] | None) -> torch.Tensor:
    tensors = [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in images]
    inputs = [F.to_dtype(one, torch.float32, scale=True) if transform is None else transform(one) for one in tensors]
    if len({one.shape for one in inputs}) > 1:
        raise InputError("the images differ in size: pass a `transform` that makes them the classifier's size")
    return torch.stack(inputs)


@contextmanager
def _evaluating(classifier: Any) -> Iterator[torch.device]:
    """Put the classifier into evaluation mode; yields the device it is on."""
    if not isinstance(classifier, torch.nn.Module):
        yield torch.device("cpu")
        return
    training = {module: module.training for module in classifier.modules()}
    classifier.eval()
    try:
        yield next((parameter.device for parameter in classifier.parameters()), torch.device("cpu"))
    finally:
        for module, mode in training.items():
            module.training = mode
