"""Kinds and backends of one's own: what a user writes is as good as what comes with the library."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, ClassVar

import numpy as np
import pytest

from augment import Cache, Recipe, prewarm
from augment.artifacts import Artifact, Image, ImageFormat, Matte
from augment.chain import Chain
from augment.errors import RecipeError
from augment.keys import image_key
from augment.stages.base import Item, Kind, Stage
from augment.stages.generate import Generator
from augment.stages.inpaint import Inpainter
from augment.stages.kinds import BASES, KINDS, backend_names, find_backend
from augment.stages.remove import Remover
from augment.store.reader import Reader
from augment.testing.pictures import scene
from tests import simple
from tests.simple import CALLS

# A kind that nobody else knows: it reads the plate and makes one number an image.


def encode_number(number: float, form: ImageFormat) -> bytes:
    return json.dumps(number).encode()


def decode_number(data: memoryview) -> float:
    return float(json.loads(bytes(data)))


NUMBER = Artifact("number", encode_number, decode_number)


class Measurer(Stage):
    kind: ClassVar[Kind[float]] = Kind("measure", makes=NUMBER, needs={"plates": Inpainter.kind}, optional=True)


@dataclass(frozen=True)
class Brightness(Measurer):
    backend: ClassVar[str] = "brightness"

    scale: float = 1.0

    def __call__(self, *, plates: Sequence[Image]) -> list[float]:
        CALLS["measure"] += len(plates)
        return [float(plate.mean()) * self.scale for plate in plates]


@dataclass(frozen=True)
class Corner(Remover):
    """A user's own remover: the upper left quarter is object."""

    backend: ClassVar[str] = "corner"

    share: float = 0.5

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        CALLS["corner"] += len(images)
        return [self._matte(image) for image in images]

    def _matte(self, image: Image) -> Matte:
        alpha = np.zeros(image.shape[:2], np.uint8)
        alpha[: round(alpha.shape[0] * self.share), : round(alpha.shape[1] * self.share)] = 255
        return Matte.from_full(alpha)


def test_a_new_kind_runs_through_chain_cache_and_reader(tmp_path):
    recipe = replace(simple.recipe(), measure=Brightness(scale=2.0))
    assert list(recipe.makers) == ["remove", "inpaint", "caption", "refine", "generate", "measure"]
    images = [scene(seed)[0] for seed in range(3)]
    cache = Cache(tmp_path / "cache")
    report = prewarm(images, cache, recipe, workers=0, progress=False)
    assert report.stages["measure"].computed == 3
    reader = Reader(cache, cache.recipes()[-1])
    for image in images:
        plate = Chain(recipe, cache).artifact(Inpainter.kind, image_key(image))
        assert reader.get(NUMBER, image_key(image)) == pytest.approx(2 * plate.mean())
    CALLS.clear()
    prewarm(images, cache, recipe, workers=0, progress=False)
    assert not CALLS
    prewarm(images, cache, recipe.changed({"measure": Brightness(scale=3.0)}), workers=0, progress=False)
    assert CALLS == {"measure": 3}


def test_a_kind_that_needs_what_the_recipe_lacks_is_refused():
    class Second(Stage):
        kind = Kind("second", makes=NUMBER, needs={"numbers": Measurer.kind})
        backend = "second"

        def __call__(self, *, numbers):
            return numbers

    with pytest.raises(RecipeError, match="second needs measure, which it lacks"):
        replace(simple.recipe(), second=Second())


def test_the_order_follows_from_what_kinds_need():
    stages = dict(reversed(simple.recipe().stages.items()))
    assert list(Recipe("x", stages).makers) == list(simple.STAGES)


def test_a_remover_of_ones_own_fills_a_recipe_in_every_way():
    for recipe in (
        Recipe("mine", simple.recipe().stages, remove=Corner(0.25)),
        replace(simple.recipe(), remove=Corner(0.25)),
        simple.recipe().changed({"remove": Corner(0.25)}),
        simple.recipe().changed({"remove": Corner()}).changed({"remove.share": 0.25}),
    ):
        assert recipe.remove == Corner(0.25)
    with pytest.raises(RecipeError, match=r"remove\.share"):
        replace(simple.recipe(), remove=Corner("much"))


def test_a_backend_of_another_package_is_found_by_its_entry_point():
    recipe = Recipe.load("classic").changed({"remove.backend": "red", "generate.backend": "noise"})
    assert recipe.remove == simple.RedRemover()
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.fingerprints() == recipe.fingerprints()
    assert find_backend(Remover, "noise") is None  # a generator
    assert "noise" in backend_names(Generator)


def measure_in(process, recipe, directory, image):
    with get_context(process).Pool(1) as pool:
        return pool.apply(corner_coverage, (pickle.dumps(recipe), directory, image))


def corner_coverage(data, directory, image):
    chain = Chain(pickle.loads(data), Cache(directory))
    chain.complete(Item(image, image_key(image)))
    return chain.artifact(Remover.kind, image_key(image)).coverage


def test_a_stage_of_ones_own_survives_pickling_to_a_spawned_process(tmp_path):
    recipe = replace(simple.recipe(), remove=Corner(0.5))
    assert measure_in("spawn", recipe, tmp_path / "cache", scene(0)[0]) == pytest.approx(0.25)


def test_a_stage_without_a_name_or_of_no_kind_is_refused():
    class Nameless(Remover):
        def __call__(self, **_):
            return []

    with pytest.raises(RecipeError, match="Nameless has no `backend`"):
        replace(simple.recipe(), remove=Nameless())
    with pytest.raises(RecipeError, match="generate: .* is not a Generator"):
        replace(simple.recipe(), generate=Corner())


def test_the_table_has_each_kind_once():
    assert list(KINDS) == [base.kind.name for base in BASES]
    for base in BASES:
        for name in base.backends:
            backend = find_backend(base, name)
            assert backend is not None
            assert (backend.backend, backend.kind) == (name, base.kind)


# What decides on an artifact besides pixels and settings.


class Masked:
    """A Dataset of scenes with a mask each."""

    def __init__(self, masks):
        self.masks = masks

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        return {"image": scene(index)[0], "mask": self.masks[index]}


def test_a_corrected_mask_recomputes_what_depends_on_it_and_nothing_else(tmp_path):
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    masks = [(scene(seed)[1] > 127).astype(np.uint8) for seed in range(3)]
    prewarm(Masked(masks), tmp_path / "cache", recipe, workers=0, progress=False)
    CALLS.clear()
    prewarm(Masked(masks), tmp_path / "cache", recipe, workers=0, progress=False)
    assert not CALLS
    masks[1] = np.roll(masks[1], 5, axis=1)
    report = prewarm(Masked(masks), tmp_path / "cache", recipe, workers=0, progress=False)
    assert {kind: stage.computed for kind, stage in report.stages.items()} == dict.fromkeys(simple.STAGES, 1)
    matte = Chain(recipe, Cache(tmp_path / "cache")).artifact(Remover.kind, image_key(scene(1)[0]))
    np.testing.assert_array_equal(matte.uncropped() > 0, masks[1] > 0)


def test_a_corrected_mask_file_recomputes_its_image_only(tmp_path):
    import PIL.Image

    from augment.testing.pictures import write_folder

    paths = write_folder(tmp_path / "images", 3)
    for path in paths:
        mask = tmp_path / "masks" / path.relative_to(tmp_path / "images")
        mask.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray((scene(int(path.stem))[1] > 127).astype(np.uint8)).save(mask)
    recipe = simple.recipe().changed({"remove.backend": "masks", "remove.folder": str(tmp_path / "masks")})
    assert prewarm(tmp_path / "images", tmp_path / "cache", recipe, workers=0, progress=False).complete == 3
    CALLS.clear()
    PIL.Image.fromarray(np.roll((scene(0)[1] > 127).astype(np.uint8), 4, axis=0)).save(mask.parents[1] / "cup/000.png")
    report = prewarm(tmp_path / "images", tmp_path / "cache", recipe, workers=0, progress=False)
    assert report.stages["remove"].computed == 1
    assert CALLS == {"inpaint": 1, "caption": 1, "refine": 1, "generate": 1}


def test_a_corrected_class_recomputes_prompts_and_backgrounds_and_the_pool_takes_it(tmp_path):
    images = [scene(seed)[0] for seed in range(3)]
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    prewarm(images, cache, recipe, groups=["cup", "cup", "ball"], workers=0, progress=False)
    CALLS.clear()
    prewarm(images, cache, recipe, groups=["cup", "mug", "ball"], workers=0, progress=False)
    assert CALLS == {"refine": 1, "generate": 1}
    key, record = image_key(images[1]), cache.recipes()[-1]
    assert cache.provenance(Chain(recipe, cache).name(Generator.kind, key, 0))["prompt"]["negative"] == "no mug"
    assert Reader(cache, record).group(key) == "mug"
    assert cache.pool(record).entries()[key].group == "mug"
    CALLS.clear()
    prewarm(images, cache, recipe, workers=0, progress=False)  # no word about groups: what was said still holds
    assert not CALLS
    assert Reader(cache, record).group(key) == "mug"


def test_a_class_changes_nothing_where_no_stage_reads_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    import PIL.Image

    PIL.Image.fromarray(scene(9)[0]).save(folder / "a.png")
    recipe = simple.recipe().changed({"generate.backend": "folder", "generate.folder": str(folder)})
    images = [scene(0)[0]]
    prewarm(images, tmp_path / "cache", recipe, groups=["cup"], workers=0, progress=False)
    CALLS.clear()
    report = prewarm(images, tmp_path / "cache", recipe, groups=["mug"], workers=0, progress=False)
    assert CALLS == {"refine": 1}
    assert report.stages["generate"].computed == 0
