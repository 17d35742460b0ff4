"""Images with stores of their backgrounds, which the speed benchmarks read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import PIL.Image
import torch

from augment import Cache, Recipe, prewarm
from augment.artifacts import BACKGROUND, MATTE, PLATE, Alpha, Image, ImageCodec, Matte, decode_image, encode_image
from augment.chain import Chain
from augment.imaging.composite import with_edge_colors
from augment.keys import image_key, to_rgb
from augment.stages.remove import Remover
from augment.store.reader import Reader
from augment.store.records import find_record
from augment.testing.scenes import scenes

CODECS: tuple[ImageCodec, ...] = get_args(ImageCodec)
MIXED = ((640, 480), (480, 640), (512, 512), (640, 427), (427, 640), (384, 384), (384, 512), (576, 432))  # (W, H)
_QUALITY = 92  # of the images' JPEG
_SEED = 7


@dataclass(frozen=True)
class Sample:
    """One image in all forms that the candidates need, with its true matte, its plate and its background."""

    file: bytes
    matte: Matte
    plate: Image
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
        return _file(self.background, "JPEG", quality=_QUALITY)

    @cached_property
    def plate_file(self) -> bytes:
        """The plate as other tools keep it: at Pillow's quality, 75."""
        return _file(self.plate, "JPEG")

    @cached_property
    def mask_file(self) -> bytes:
        return _file(self.matte.uncropped(), "PNG")

    @cached_property
    def cutout_file(self) -> bytes:
        left, top, right, bottom = self.matte.box
        return _file(np.dstack([self.array[top:bottom, left:right], self.matte.alpha]), "WEBP")


def squares(count: int, size: int) -> Iterator[tuple[Image, Alpha]]:
    """Images and true alphas, all of `size` x `size`."""
    for scene in scenes(count, size, seed=_SEED):
        yield scene.image, scene.alpha


def mixed(count: int) -> Iterator[tuple[Image, Alpha]]:
    """Images and true alphas of the sizes in MIXED in turn, each cut from a square scene around its object."""
    for number, scene in enumerate(scenes(count, max(map(max, MIXED)), seed=_SEED)):
        width, height = MIXED[number % len(MIXED)]
        scale = max(width, height) / len(scene.image)
        image: Image = scene.image
        alpha: Alpha = scene.alpha
        if scale < 1:
            image, alpha = (
                cv2.resize(a, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for a in (image, alpha)
            )
        left, top, object_width, object_height = cv2.boundingRect(alpha)
        x = min(max(0, left + object_width // 2 - width // 2), image.shape[1] - width)
        y = min(max(0, top + object_height // 2 - height // 2), image.shape[0] - height)
        window = slice(y, y + height), slice(x, x + width)
        yield np.ascontiguousarray(image[window]), np.ascontiguousarray(alpha[window])


def fill(
    folder: Path, pictures: Iterable[tuple[Image, Alpha]], codecs: Iterable[ImageCodec] = CODECS
) -> tuple[dict[ImageCodec, Cache], list[Sample]]:
    """A store per codec, with true mattes and backgrounds from the classic recipe; `folder/images` holds the files."""
    recipe = Recipe.load("classic")
    store = Cache(folder / "png", codec="png")
    chain = Chain(recipe, store)
    (folder / "images").mkdir()
    for number, (pixels, alpha) in enumerate(pictures):
        path = folder / "images" / f"{number:03}.jpg"
        path.write_bytes(_file(pixels, "JPEG", quality=_QUALITY))
        image = to_rgb(PIL.Image.open(path))
        matte = with_edge_colors(Matte.from_full(alpha), image)
        store.put(chain.name(Remover.kind, image_key(image)), matte.to_bytes(), {})
    report = prewarm(folder / "images", store, recipe, workers=0, progress=False)
    paths = sorted((folder / "images").iterdir())
    if report.complete < len(paths):
        raise RuntimeError(f"some images have no background: {report}")
    reader = Reader(store, find_record(store))
    samples = []
    for path in paths:
        key = image_key(PIL.Image.open(path))
        found, plate, background = reader.get(MATTE, key), reader.get(PLATE, key), reader.get(BACKGROUND, key, 0)
        assert found is not None
        assert plate is not None
        assert background is not None
        samples.append(Sample(path.read_bytes(), found, plate, background))
    stores: dict[ImageCodec, Cache] = {}
    for codec in codecs:
        stores[codec] = store if codec == "png" else recoded(store, Cache(folder / codec, codec=codec))
    return stores, samples


def recoded(store: Cache, into: Cache) -> Cache:
    """Copy everything from a store into another, with backgrounds re-encoded by the other's codec."""
    for record in store.recipes():
        into.add_record(record)
        into.add_to_pool(record, store.pool(record).entries())
    for name in store.names():
        data = store.get(name)
        if data is not None:
            background = name.startswith(f"{BACKGROUND.name}/")
            payload = encode_image(decode_image(data), into.codec, into.quality) if background else bytes(data)
            into.put(name, payload, store.provenance(name) or {})
    return into


def _file(pixels: Image | Alpha, form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    PIL.Image.fromarray(pixels).save(data, form, **options)
    return data.getvalue()
