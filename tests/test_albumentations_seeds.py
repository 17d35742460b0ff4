"""The albumentations transform draws from the seeds that its user sets, in workers too, as `A.Affine` does."""

import albumentations as A  # noqa: N812
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from augment.albumentations import ReplaceBackground
from augment.sampling.placement import Placement

in_old_one = pytest.mark.skipif(
    hasattr(A.DualTransform, "sample_parameters"), reason="AlbumentationsX has its own rule for seeds"
)


def ours(cache, seed=None):
    return A.Compose([ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))], seed=seed)


def affine(_, seed=None):
    return A.Compose([A.Affine(translate_percent=(-0.3, 0.3), p=1)], seed=seed)


class Scenes(Dataset):
    def __init__(self, path, make, count=6):
        self.image, self.make, self.count = np.array(PIL.Image.open(path).convert("RGB")), make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.from_numpy(self.pipeline(index)(image=self.image)["image"])


class PerItem(Scenes):
    """Sets a seed for each item."""

    def pipeline(self, index):
        self.transform = getattr(self, "transform", None) or self.make()
        self.transform.set_random_seed(index)
        return self.transform


class NewPerItem(Scenes):
    """Makes a pipeline with a seed for each item."""

    def pipeline(self, index):
        return self.make(seed=index)


class Once(Scenes):
    """Has one pipeline from the start."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.transform = self.make()

    def pipeline(self, index):
        return self.transform


class NewUnseeded(Scenes):
    """Makes a pipeline without a seed for each item."""

    def pipeline(self, index):
        return self.make()


class Lazy(Once):
    """Has one pipeline from the first item on."""

    def __init__(self, *arguments):
        Scenes.__init__(self, *arguments)
        self.transform = None

    def pipeline(self, index):
        self.transform = self.transform or self.make()
        return self.transform


def seeded(worker_id):
    get_worker_info().dataset.transform.set_random_seed(100 + worker_id)


def drawn(dataset, workers, **settings):
    return [one.numpy().tobytes() for one in DataLoader(dataset, None, num_workers=workers, **settings)]


@in_old_one
@pytest.mark.parametrize("make", [ours, affine])
@pytest.mark.parametrize("dataset", [PerItem, NewPerItem])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_seed_for_each_item_gives_the_same_with_and_without_workers(filled, make, dataset, method):
    if method == "spawn" and (make is affine or dataset is NewPerItem):
        pytest.skip("fork is enough")
    cache, paths = filled
    scenes = dataset(paths[0], Make(make, cache))
    alone = drawn(scenes, 0)
    assert len(set(alone)) == 6
    assert drawn(scenes, 1, multiprocessing_context=method) == alone == drawn(scenes, 2)


class Make:
    """Makes pipelines; can be pickled."""

    def __init__(self, make, cache):
        self.make, self.cache = make, cache

    def __call__(self, seed=None):
        return self.make(self.cache, seed)


@in_old_one
@pytest.mark.parametrize("make", [ours, affine])
def test_a_seed_set_in_worker_init_fn_holds(filled, make):
    cache, paths = filled
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(drawn(Once(paths[0], Make(make, cache)), 2, worker_init_fn=seeded))
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 6


@in_old_one
@pytest.mark.parametrize("dataset", [Once, Lazy, NewUnseeded])
def test_without_a_seed_workers_differ_and_torchs_seed_repeats_them(filled, dataset):
    cache, paths = filled
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(drawn(dataset(paths[0], Make(ours, cache)), 2, multiprocessing_context="fork"))
        assert len(set(runs[-1])) == 6
    assert runs[0] == runs[1] != runs[2]


@in_old_one
def test_the_seed_of_compose_counts_in_workers_that_still_differ(filled):
    cache, paths = filled
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(5)
        dataset = Once(paths[0], Make(lambda cache, _, seed=seed: ours(cache, seed), cache))
        runs.append(drawn(dataset, 2, multiprocessing_context="fork"))
        assert len(set(runs[-1])) == 6
    assert runs[0] == runs[1] != runs[2]
