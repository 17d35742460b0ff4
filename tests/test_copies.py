"""Copies of a transform share its counts and its epoch, with their workers too."""

import copy
import gc
import os
import pickle
import subprocess
import sys

import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, random_split

import augment.albumentations
from augment.sampling.schedules import Linear
from augment.sampling.shared import Shared
from augment.torchvision import ReplaceBackground


class Scenes(Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with PIL.Image.open(self.paths[index]) as file:
            self.transform(file.convert("RGB"))
        return index


CHANGES = {
    "itself": lambda dataset: dataset,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda dataset: pickle.loads(pickle.dumps(dataset)),
    "a copy of a copy": lambda dataset: pickle.loads(pickle.dumps(copy.deepcopy(dataset))),
}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_the_dataset_counts_and_follows_the_epoch_in_its_workers(filled, change, method):
    cache, paths = filled
    original = Scenes(paths, ReplaceBackground(cache, p=Linear(0, 1, 2)))
    dataset = CHANGES[change](original)
    loader = DataLoader(dataset, 4, num_workers=1, multiprocessing_context=method, persistent_workers=True)
    hits = []
    for epoch in (0, 1, 1):
        dataset.transform.set_epoch(epoch)
        list(loader)
        hits.append((dataset.transform.counts["hits"], original.transform.counts["hits"]))
    assert hits == [(0, 0), (8, 8), (16, 16)]


def test_the_original_sets_the_epoch_of_its_copies(filled):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=Linear(0, 1, 2))
    halves = random_split(copy.deepcopy(Scenes(paths, replace)), [4, 4])
    loaders = [DataLoader(half, 2, num_workers=1, persistent_workers=True) for half in halves]
    for epoch in (0, 1):
        replace.set_epoch(epoch)
        for loader in loaders:
            list(loader)
    assert replace.counts["hits"] == 8


def test_a_fork_after_a_spawn_still_shares(filled):
    cache, paths = filled
    dataset = Scenes(paths, ReplaceBackground(cache, p=1))
    for method in ("fork", "spawn", "fork"):
        list(DataLoader(copy.deepcopy(dataset), 4, num_workers=1, multiprocessing_context=method))
    assert dataset.transform.counts["hits"] == 24


def test_another_process_starts_from_what_was_pickled(filled, tmp_path):
    replace = ReplaceBackground(filled[0], p=Linear(0, 1, 3))
    replace.set_epoch(1)
    (tmp_path / "pickle").write_bytes(pickle.dumps(replace))
    code = (
        f"import pickle; t = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb')); print(t.p); t.set_epoch(2); "
        "print(t.p)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["0.5", "1.0"], done.stderr
    assert replace.p == 0.5


def test_a_changed_probability_is_the_copys_own(filled):
    replace = ReplaceBackground(filled[0], p=1)
    other = copy.deepcopy(replace)
    other.p = 0
    assert (replace.p, other.p) == (1, 0)


@pytest.mark.parametrize("face", [ReplaceBackground, augment.albumentations.ReplaceBackground])
def test_no_file_descriptor_is_held_for_each_transform(filled, face):
    first = face(filled[0])  # opens what all of them share
    gc.collect()  # what earlier tests have left behind closes its files now and not below
    before = len(os.listdir("/proc/self/fd"))
    held = [face(filled[0], p=Linear(0, 1, 2)) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) <= before
    del first, held


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_default_device_changes_nothing(filled, device):
    cache, paths = filled
    with PIL.Image.open(paths[0]) as file:
        image = file.convert("RGB")
    torch.set_default_device(device)
    try:
        replace = ReplaceBackground(cache, p=Linear(1, 1, 2))
        assert replace(image) is not image
        assert replace.counts["hits"] == 1
    finally:
        torch.set_default_device(None)


def test_what_nobody_holds_is_forgotten():
    shared = Shared(3)
    shared.array[:] = 1, 2, 3
    data = pickle.dumps(shared)
    assert pickle.loads(data) is shared
    del shared
    assert pickle.loads(data).array.tolist() == [1, 2, 3]
