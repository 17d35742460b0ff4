"""The torchvision transform in DataLoader workers, over epochs and on whole batches."""

import pickle
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F  # noqa: N812

from augment import Cache
from augment.errors import InputError
from augment.sampling.placement import Placement
from augment.sampling.schedules import Cosine, Linear
from augment.stages.guard import Guard
from augment.testing.pictures import scene
from augment.torchvision import Layers, ReplaceBackground, ReplaceBackgroundBatch
from tests import simple
from tests.filled import boxed, counted


class Scenes(Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with PIL.Image.open(self.paths[index]) as file:
            return torch.from_numpy(np.array(self.transform(file.convert("RGB"))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_hit_always_differ_between_epochs_and_repeat_with_the_seed(filled, method):
    cache, paths = filled
    cache.get("opened before the fork")
    replace = ReplaceBackground(cache, p=1)
    runs = []
    for _ in range(2):
        torch.manual_seed(11)
        loader = DataLoader(
            Scenes(paths, replace), 1, num_workers=2, multiprocessing_context=method, persistent_workers=True
        )
        runs.append([[batch.numpy().tobytes() for batch in loader] for _ in range(3)])
    assert runs[0] == runs[1]
    epochs = runs[0]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert sum(a != b for a, b in zip(epochs[0], epochs[1], strict=True)) >= 2
    assert counted(replace) == {"hits": 48}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(Linear(0.2, 1.0, 5), [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]), (Cosine(0.0, 1.0, 3), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0])],
)
def test_a_schedule_goes_from_its_start_to_its_end_and_stays_there(cache, schedule, expected):
    replace = ReplaceBackground(cache, p=pickle.loads(pickle.dumps(schedule)))
    found = []
    for epoch in range(6):
        replace.set_epoch(epoch)
        found.append(replace.p)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("settings", [(-0.1, 1, 3), (0, 1.1, 3), (0, 1, 0)])
def test_a_schedule_that_cannot_be_is_refused(settings):
    with pytest.raises(InputError):
        Linear(*settings)
    with pytest.raises(InputError):
        Cosine(*settings)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_persist_follow_the_epoch(filled, method):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=Linear(0, 1, 2))
    loader = DataLoader(
        Scenes(paths, replace), 4, num_workers=1, multiprocessing_context=method, persistent_workers=True
    )
    hits = []
    for epoch in (0, 1, 0):
        replace.set_epoch(epoch)
        assert sum(len(batch) for batch in loader) == 8
        hits.append(replace.counts["hits"])
    assert hits == [0, 8, 8]


@dataclass(frozen=True)
class CudaGenerator(simple.NoiseGenerator):
    backend: ClassVar[str] = "cuda noise"

    def target(self):
        return "cuda:0"


@dataclass(frozen=True)
class CudaGuard(Guard):
    backend: ClassVar[str] = "cuda guard"

    def __call__(self, *, images, **_):
        return [None] * len(images)

    def target(self):
        return "cuda:0"


class FailsInWorker(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            self.transform(PIL.Image.fromarray(scene(index)[0]))
        except InputError as error:
            return str(error)
        return "computed"


@pytest.mark.parametrize(
    ("change", "who"),
    [({"generate": CudaGenerator()}, "generate (cuda noise)"), ({"guard": CudaGuard()}, "guard (cuda guard)")],
)
def test_computing_on_cuda_in_a_forked_worker_is_refused_with_the_way_out(tmp_path, monkeypatch, change, who):
    recipe = simple.recipe().changed(change)
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=recipe)
    for bad_fork, expected in ((True, f"{who} needs CUDA, which a forked"), (False, "computed")):
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda bad=bad_fork: bad)
        loader = DataLoader(FailsInWorker(replace), None, num_workers=1, multiprocessing_context="fork")
        (answer,) = list(loader)
        assert expected in answer


def test_a_spawned_worker_computes_what_is_missing(tmp_path):
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=simple.recipe())
    loader = DataLoader(FailsInWorker(replace), None, num_workers=1, multiprocessing_context="spawn")
    assert list(loader) == ["computed"]
    assert counted(replace) == {"hits": 1}


class Labelled(Dataset):
    """Images with a class each."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with PIL.Image.open(self.paths[index]) as file:
            return file.convert("RGB"), index


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"p": 1, "blend": "feather", "harmonize": 0.5},
        {"p": 1, "source": "pool", "placement": Placement(scale=(0.5, 1.5), translate="uniform", flip=0.5, rotate=20)},
        {"p": 1, "blend": "poisson"},
        {"p": 1, "blend": {"alpha": 1, "feather": 1, "poisson": 1}},
    ],
)
def test_a_blended_batch_is_what_the_transform_gives_for_each_image(filled, arguments):
    cache, paths = filled
    one_by_one, batch = ReplaceBackground(cache, **arguments), ReplaceBackgroundBatch(cache, **arguments)
    dataset = Labelled(paths)
    torch.manual_seed(3)
    expected = [F.pil_to_tensor(one_by_one(dataset[n][0])) for n in range(len(dataset))]
    torch.manual_seed(3)
    layers, labels = batch.collate([dataset[n] for n in range(len(dataset))])
    blended = batch(layers)
    assert isinstance(layers, Layers)
    assert blended.shape == (len(dataset), *expected[0].shape)
    assert blended.dtype == torch.uint8
    assert labels.tolist() == list(range(len(dataset)))
    assert (blended.int() - torch.stack(expected).int()).abs().max() <= 1
    assert batch.counts == one_by_one.counts


def test_a_batch_collated_by_workers_is_blended_in_the_loop(filled):
    cache, paths = filled
    batch = ReplaceBackgroundBatch(cache, p=0.5)
    loader = DataLoader(Labelled(paths), 4, num_workers=2, collate_fn=batch.collate)
    dataset = Labelled(paths)
    originals = [F.pil_to_tensor(dataset[n][0]) for n in range(len(dataset))]
    torch.manual_seed(0)
    changed = [
        not torch.equal(image, originals[label])
        for layers, labels in loader
        for image, label in zip(batch(layers), labels.tolist(), strict=True)
    ]
    assert len(changed) == len(paths)
    assert sum(changed) == batch.counts["hits"] > 0
    assert not all(changed)


def test_labels_go_into_the_batch_where_their_objects_are(cache, image):
    batch = ReplaceBackgroundBatch(cache, p=1, placement=Placement(scale=(0.5, 0.5)))
    labels = boxed()
    layers, moved = batch.collate([(image, {name: labels[name] for name in ("boxes", "masks")})])
    assert batch.counts["unmoved"] == 0
    rows, columns = np.nonzero(moved["masks"][0, 0].numpy())
    assert (layers.alpha[0, rows, columns] == 255).all()
    held = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(moved["boxes"][0, 0], held, atol=1)
