"""The size limit: one budget over all shards, whole images go, and a prewarm says what does not fit."""

import logging
import math

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from augment import Cache, prewarm
from augment.cli import app
from augment.errors import CacheFullError, InputError, StoreError
from augment.keys import image_key
from augment.store.settings import parse_size
from augment.testing.pictures import scene
from tests import simple

RECIPE = simple.recipe()


def image(number):
    """A scene that takes about 0.1 MB in a cache."""
    return PIL.Image.fromarray(np.kron(scene(number)[0], np.ones((6, 6, 1), np.uint8)))


@pytest.fixture(scope="module")
def images():
    return [image(number) for number in range(14)]


@pytest.fixture(scope="module")
def nbytes(images, tmp_path_factory):
    """What a cache of all of them takes."""
    cache = Cache(tmp_path_factory.mktemp("whole") / "cache")
    prewarm(images, cache, RECIPE, workers=0, progress=False)
    cache.checkpoint()
    return cache.nbytes()


def fill(images, cache):
    simple.CALLS.clear()
    return prewarm(images, cache, RECIPE, workers=0, progress=False)


def entries(cache, image):
    """The artifacts of an image that are there."""
    return {name.split("/")[0] for name in cache.names() if image_key(image) in name}


def test_what_does_not_fit_is_left_out_whole_and_a_rerun_computes_nothing_and_says_the_same(
    images, nbytes, tmp_path, caplog
):
    limit = int(nbytes * 0.8)
    first = fill(images, Cache(tmp_path / "cache", size_limit=limit))
    assert 7 <= first.complete < 14
    assert (first.complete + first.unfit, first.failures) == (14, [])
    cache = Cache(tmp_path / "cache")
    assert cache.nbytes() <= limit
    there = [entries(cache, image) for image in images]
    assert sum(len(names) == 5 for names in there) == first.complete
    assert sum(not names for names in there) == first.unfit
    assert "do not fit" in str(first)
    for _ in range(2):
        caplog.clear()
        again = fill(images, Cache(tmp_path / "cache"))
        assert (again.complete, again.unfit) == (first.complete, first.unfit)
        assert not simple.CALLS
        assert "of these 14 images will fit" in caplog.text
    cache = Cache(tmp_path / "cache", size_limit=math.inf)
    assert cache.size_limit is Cache(tmp_path / "cache").size_limit is None
    assert fill(images, cache).complete == 14
    assert simple.CALLS["remove"] == first.unfit


def test_images_of_another_run_make_room_the_oldest_first(images, nbytes, tmp_path):
    cache = Cache(tmp_path / "cache", size_limit=int(nbytes * 0.8))
    assert fill(images[:6], cache).complete == 6
    assert fill(images[6:], cache).complete == 8
    there = [len(entries(cache, image)) for image in images]
    assert there[6:] == [5] * 8
    assert there == sorted(there)
    assert 0 in there[:6]
    assert cache.nbytes() <= cache.size_limit
    record = RECIPE.record(1)
    assert fill(images[6:], cache).complete == 8
    assert not simple.CALLS
    assert {image_key(image) for image in images[6:]} <= cache.pool(record).entries().keys()


def test_the_matte_goes_last_and_the_plate_first(images, tmp_path, monkeypatch):
    from augment.store.shard import Shard

    cache = Cache(tmp_path / "cache")
    fill(images[:2], cache)
    cache.checkpoint()
    dropped, delete = [], Shard.delete
    monkeypatch.setattr(Shard, "delete", lambda self, name: (dropped.append(name.split("/")[0]), delete(self, name)))
    cache.size_limit = cache.nbytes() - 1
    cache.put("matte/other/" + "f" * 32, b"x" * 5000, {})
    assert dropped == ["plate", "background", "prompt", "caption", "matte"] or dropped == [
        "plate",
        "prompt",
        "background",
        "caption",
        "matte",
    ]
    assert [len(entries(cache, image)) for image in images[:2]] == [0, 5]


def test_an_entry_that_is_larger_than_the_limit_is_refused(tmp_path):
    cache = Cache(tmp_path / "cache", size_limit=600_000)
    cache.put("matte/f/" + "1" * 32, b"x", {})
    with pytest.raises(CacheFullError, match="600000 bytes"):
        cache.put("background/f/" + "2" * 32, bytes(700_000), {})
    assert cache.get("background/f/" + "2" * 32) is None


def test_a_limit_that_holds_nothing_is_refused_before_any_work(images, tmp_path):
    with pytest.raises(InputError, match="size_limit: 200000 bytes are less"):
        fill(images, Cache(tmp_path / "cache", size_limit=200_000))
    assert not simple.CALLS


def test_a_limit_for_no_image_ends_without_effect_and_says_so(images, tmp_path):
    report = fill(images, Cache(tmp_path / "cache", size_limit=300_000))
    assert (report.complete, report.unfit) == (0, 14)
    again = fill(images, Cache(tmp_path / "cache"))
    assert (again.complete, again.unfit) == (0, 14)
    assert not simple.CALLS


def test_the_bytes_count_logs_and_files(tmp_path):
    cache = Cache(tmp_path / "cache")
    for number in range(20):
        cache.put(f"matte/f/{number:032x}", bytes(30_000), {})
        cache.put(f"plate/f/{number:032x}", bytes(50_000), {})
    files = [path for path in (cache.directory / "entries").rglob("*") if path.is_file()]
    on_disk = sum(path.stat().st_size for path in files if not path.name.endswith("-shm"))  # that is memory
    assert cache.nbytes() == on_disk
    assert any(path.name.endswith("-wal") and path.stat().st_size for path in files)


@pytest.mark.parametrize(
    ("text", "size"), [("10GB", 10**10), ("1.5 mb", 1_500_000), ("700", 700), ("2KiB", 2000), ("none", math.inf)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "nan", "1e30GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(StoreError, match="size limit"):
        parse_size(text)


def test_the_command_line_sets_the_limit_and_exits_with_1_if_images_do_not_fit(images, nbytes, tmp_path, caplog):
    (tmp_path / "images").mkdir()
    for number, one in enumerate(images):
        one.save(tmp_path / "images" / f"{number:02}.png")
    (tmp_path / "simple.toml").write_text(RECIPE.to_toml())
    arguments = ["prewarm", tmp_path / "images", "--cache", tmp_path / "cache", "--recipe", tmp_path / "simple.toml"]
    arguments = [*map(str, arguments), "--workers", "0"]
    with caplog.at_level(logging.ERROR):
        done = CliRunner().invoke(app, [*arguments, "--size-limit", f"{nbytes * 0.8 / 1e6:.3f}MB"])
    assert done.exit_code == 1, done.output
    assert "do not fit" in done.output
    done = CliRunner().invoke(app, [*arguments, "--size-limit", "none"])
    assert done.exit_code == 0, done.output
