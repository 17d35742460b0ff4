"""Many processes at one cache: writers, readers, creators, prewarms, and a training while it is filled."""

import random
import shutil
import time
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from augment import Cache, prewarm
from augment.store.pool import PoolEntry
from augment.store.verify import verify
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ReplaceBackground
from tests import simple
from tests.faults.filled import PARTS, RECORD, key, made

pytestmark = pytest.mark.faults
_fork = get_context("fork")  # the imports take longer than the work
IMAGES = 40


def _write(folder, seed, seconds, counts):
    draw, cache, end = random.Random(seed), Cache(folder), time.monotonic() + seconds
    while time.monotonic() < end:
        number = draw.randrange(IMAGES)
        if draw.random() < 0.05:
            cache.delete(f"{draw.choice(PARTS)}/{key(number)}")
        for part in PARTS:
            cache.put(f"{part}/{key(number)}", made(part, number), {"n": number})
        if draw.random() < 0.2:
            cache.add_record(RECORD)
            cache.add_to_pool(RECORD, {key(number): PoolEntry(None, 0.5, 1)})
            cache.add_paths([(f"/images/{number}.png", key(number))])
            cache.note_miss(RECORD, key(number))
        counts.put(1)


def _read(folder, seed, seconds, counts):
    draw, cache, end, seen = random.Random(seed), Cache(folder), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number, part = draw.randrange(IMAGES), draw.choice(PARTS)
        found = cache.get(f"{part}/{key(number)}")
        assert found is None or bytes(found) == made(part, number)
        if draw.random() < 0.02:
            assert set(cache.pool(RECORD).entries()) <= {key(n) for n in range(IMAGES)}
            assert cache.keys_at(f"/images/{number}.png") in ([], [key(number)])
        seen += found is not None
    counts.put(seen)


def together(*jobs):
    """Run functions in processes at once; each has to end well. What they counted."""
    counts = _fork.Queue()
    processes = [_fork.Process(target=job, args=(*arguments, counts)) for job, *arguments in jobs]
    for process in processes:
        process.start()
    found = []
    while any(process.is_alive() for process in processes) or not counts.empty():
        try:
            found.append(counts.get(timeout=0.1))
        except Exception:
            continue
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return found


def test_eight_writers_and_eight_readers_never_meet_an_error_or_a_wrong_entry(tmp_path, tries):
    seconds = tries(3, 60)
    jobs = [(job, tmp_path, seed, seconds) for seed in range(8) for job in (_write, _read)]
    found = together(*jobs)
    assert verify(cache := Cache(tmp_path)).wrong == []
    assert len(cache.pool(RECORD)) > 10
    assert len(cache.recipes()) == 1
    print(f"{seconds} s: {len(found) - 8} images written, {sum(found) - len(found) + 8} entries read")


def _create(folder, number, counts):
    Cache(folder).put(f"x/{number}", bytes(number), {})
    counts.put(number)


def test_thirty_two_creators_make_one_cache(tmp_path):
    assert sorted(together(*[(_create, tmp_path / "a" / "cache", n) for n in range(32)])) == list(range(32))
    cache = Cache(tmp_path / "a" / "cache")
    assert {name: len(cache.get(name)) for name in cache.names()} == {f"x/{n}": n for n in range(32)}
    assert verify(cache).wrong == []


def _prewarm(images, cache, counts):
    report = prewarm(images, cache, simple.recipe(), variants=2, workers=1, progress=False)
    counts.put(("complete", report.complete))


def _train(images, cache, counts):
    time.sleep(0.2)
    replace = ReplaceBackground(cache, p=1)
    paths = sorted(images.rglob("*.png"))
    for _ in range(3):
        for pixels, path in DataLoader(
            paths, batch_size=None, num_workers=1, collate_fn=lambda path: (np.asarray(replace(Image.open(path))), path)
        ):
            image = np.asarray(Image.open(path))
            seen = np.array_equal(pixels, image) or (pixels != image).mean() > 0.2
            assert seen, "neither the image itself nor one with another background"
    counts.put(("hits", replace.counts["hits"]))


def test_two_prewarms_of_one_folder_under_a_training(tmp_path):
    write_folder(tmp_path / "images", 24)
    prewarm([scene(0)[0], scene(50)[0]], tmp_path / "cache", simple.recipe(), variants=2, workers=0, progress=False)
    arguments = (tmp_path / "images", tmp_path / "cache")
    found = together((_prewarm, *arguments), (_prewarm, *arguments), (_train, *arguments))
    assert found.count(("complete", 24)) == 2
    assert dict(found)["hits"] > 0
    assert verify(Cache(tmp_path / "cache")).wrong == []


def test_a_cache_deleted_under_a_training_becomes_misses(tmp_path):
    write_folder(tmp_path / "images", 6)
    prewarm(tmp_path / "images", tmp_path / "cache", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "cache", p=1)
    loader = DataLoader(
        sorted((tmp_path / "images").rglob("*.png")) * 4,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        collate_fn=lambda path: np.asarray(replace(Image.open(path))).shape,
    )
    assert len(list(loader)) == 24
    assert replace.counts["hits"] == 24
    shutil.rmtree(tmp_path / "cache")
    assert len(list(loader)) == 24
    assert not (tmp_path / "cache").exists()
    assert len(list(DataLoader(loader.dataset, batch_size=None, num_workers=1, collate_fn=loader.collate_fn))) == 24
    assert not (tmp_path / "cache").exists(), "new workers do not make it again"
    assert replace.counts["misses"] >= 24
