"""A mix of blends: which one a sample gets, and that nothing else changes with it."""

from __future__ import annotations

import random

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors

from augment import Cache, prewarm
from augment.albumentations import ReplaceBackground as Albumentations
from augment.imaging.composite import BLENDS
from augment.sampling.sampler import DRAWS, Draws
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ReplaceBackground
from tests import simple

MIX = {"alpha": 1, "feather": 2, "poisson": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("blends")
    paths = write_folder(folder / "images", 3)
    prewarm(paths, folder / "cache", simple.recipe(), variants=2, workers=0, progress=False)
    return Cache(folder / "cache")


def composites(cache: Cache, blend: object, count: int) -> list[bytes]:
    """What the same draws give with this blend."""
    replace = ReplaceBackground(cache, p=1, blend=blend)
    image = PIL.Image.fromarray(scene(0)[0])
    torch.manual_seed(0)
    return [np.asarray(replace(image)).tobytes() for _ in range(count)]


def test_a_mix_gives_each_sample_one_of_its_blends_by_weight_and_changes_no_other_draw(cache: Cache) -> None:
    plain = {blend: composites(cache, blend, 400) for blend in BLENDS}
    mixed = composites(cache, MIX, 400)
    drawn = [{blend for blend in BLENDS if plain[blend][n] == mixed[n]} for n in range(400)]
    assert all(len(blends) == 1 for blends in drawn)
    for blend, weight in MIX.items():
        assert drawn.count({blend}) == pytest.approx(100 * weight, abs=40)


@pytest.mark.parametrize("library", ["torch", "random"])
def test_which_blend_is_drawn_says_nothing_about_the_flip(library: str) -> None:
    generator, torchs = random.Random(0), torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(4000):
        uniforms = [generator.random() for _ in range(DRAWS)]
        if library == "torch":
            uniforms = torch.rand(DRAWS, dtype=torch.float64, generator=torchs).tolist()
        draws = Draws.of(uniforms)
        pairs.append((draws.flip, draws.blend))
    flips, blends = np.array(pairs).T
    assert 0 <= blends.min() < 0.01
    assert 0.99 < blends.max() < 1
    assert abs(np.corrcoef(flips, blends)[0, 1]) < 0.06
    counts = np.histogram2d(flips, blends, bins=4, range=[[0, 1], [0, 1]])[0]
    assert np.abs(counts - 250).max() < 80


def test_both_faces_draw_the_same_blend_for_the_same_numbers(cache: Cache) -> None:
    image = scene(0)[0]
    albumentations = Albumentations(cache, p=1, blend=MIX)
    replace = ReplaceBackground(cache, p=1, blend=MIX)
    for seed in range(20):
        torch.manual_seed(seed)
        _, *uniforms = torch.rand(1 + DRAWS, dtype=torch.float64).tolist()
        torch.manual_seed(seed)
        expected = np.asarray(replace(PIL.Image.fromarray(image)))
        params = {"draws": uniforms}
        assert np.array_equal(albumentations.apply_with_params(params, image=image)["image"], expected)


def test_a_labeled_sample_is_blended_with_alpha_whatever_the_mix(cache: Cache) -> None:
    image, matte = scene(0)
    sample = (PIL.Image.fromarray(image), tv_tensors.Mask(torch.from_numpy(matte == 255)[None]))
    results = []
    for blend in ("alpha", {"feather": 1, "poisson": 1}):
        torch.manual_seed(0)
        results.append(np.asarray(ReplaceBackground(cache, p=1, blend=blend)(sample)[0]))
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], image)
