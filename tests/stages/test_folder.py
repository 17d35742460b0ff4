"""The generator that takes its backgrounds from a folder of photographs."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from augment.artifacts import Image
from augment.errors import UnavailableError
from augment.imaging.fit import cover
from augment.stages.generate.folder import Folder

COLORS = {"a": (200, 30, 30), "b": (30, 200, 30), "sub/c": (30, 30, 200), "sub/d": (200, 200, 30), "e": (30, 200, 200)}


def _save(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (90, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, color).save(path)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Five plain pictures, one of them in capitals, and a file that is none."""
    for name, color in COLORS.items():
        _save(tmp_path / f"{name}.{'PNG' if name == 'e' else 'png'}", color)
    (tmp_path / "readme.txt").write_text("not a picture")
    return tmp_path


def _call(stage: Folder, seeds: list[int], height: int = 48, width: int = 64) -> list[Image]:
    return stage(plates=[np.zeros((height, width, 3), np.uint8)] * len(seeds), seeds=seeds)


def _color(background: Image) -> tuple[int, ...]:
    return tuple(int(value) for value in background[0, 0])


def test_backgrounds_have_the_plates_size_and_every_photograph_of_every_subfolder_is_used(photographs: Path) -> None:
    backgrounds = _call(Folder(str(photographs)), list(range(60)))
    assert {background.shape for background in backgrounds} == {(48, 64, 3)}
    assert all(background.dtype == np.uint8 and background.flags.c_contiguous for background in backgrounds)
    assert {_color(background) for background in backgrounds} == set(COLORS.values())


def test_a_seed_gives_the_same_background_alone_in_a_batch_and_in_another_instance(wallpaper: Path) -> None:
    seeds = [3, 2**63 - 1, 5, 0]
    together = _call(Folder(str(wallpaper.parent)), seeds)
    alone = [_call(Folder(str(wallpaper.parent)), [seed])[0] for seed in seeds]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(together[0], together[1])


@pytest.fixture
def wallpaper(tmp_path: Path) -> Path:
    """A picture in which each pixel tells where it was: red grows to the right, green downward."""
    pixels = np.zeros((100, 400, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 400)[None]
    pixels[..., 1] = np.linspace(0, 255, 100)[:, None]
    PIL.Image.fromarray(pixels).save(tmp_path / "gradient.png")
    return tmp_path / "gradient.png"


def test_crops_differ_by_seed_keep_the_aspect_and_are_mirrored_only_on_request(wallpaper: Path) -> None:
    plain = _call(Folder(str(wallpaper.parent), flip=False), list(range(20)), 50, 50)
    reds = [background[..., 0].astype(int) for background in plain]
    assert len({int(red[0, 0]) for red in reds}) > 10
    # A square of the full height is a quarter of the width: red spans a quarter of its range, green all of it.
    assert all(55 < red[0, -1] - red[0, 0] < 70 for red in reds)
    assert all(background[-1, 0, 1] > 245 > 10 > background[0, 0, 1] for background in plain)
    mirrored = [
        background[0, 0, 0] > background[0, -1, 0]
        for background in _call(Folder(str(wallpaper.parent)), list(range(20)))
    ]
    assert 4 < sum(mirrored) < 16


def test_adding_a_photograph_leaves_most_picks_as_they_were(photographs: Path) -> None:
    seeds = list(range(200))
    before = [_color(background) for background in _call(Folder(str(photographs)), seeds)]
    _save(photographs / "aa.png", (9, 9, 9))
    after = [_color(background) for background in _call(Folder(str(photographs)), seeds)]
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(changed) == {(9, 9, 9)}
    assert 15 < len(changed) < 60


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (80, 40), (250, 0, 0))
    image.paste((0, 0, 250), (40, 0, 80, 40))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half ends up on top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    background = _call(Folder(str(tmp_path)), [1], 80, 40)[0]
    assert background[5, 20, 0] > 200 > 50 > background[5, 20, 2]
    assert background[-5, 20, 2] > 200 > 50 > background[-5, 20, 0]


def test_a_large_jpeg_decoded_at_a_fraction_of_its_size_gives_the_same_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (1600, 1200), interpolation=cv2.INTER_CUBIC)
    PIL.Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    background = _call(Folder(str(tmp_path), flip=False), [1], 150, 200)[0]
    assert np.abs(background.astype(int) - cover(pixels, 150, 200)).mean() < 2


def test_an_unreadable_photograph_is_skipped_with_one_warning(
    photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Folder(str(photographs))
    whole = [_color(background) for background in _call(stage, list(range(40)))]
    for suffix, bad in (("png", b"not a picture"), ("jpg", b"")):
        (photographs / f"bad.{suffix}").write_bytes(bad)
    stage.unload()
    with caplog.at_level(logging.WARNING):
        assert [_color(background) for background in _call(stage, list(range(40)))] == whole
    assert sorted(Path(str(record.args[0])).name for record in caplog.records if record.args) == ["bad.jpg", "bad.png"]


def test_a_truncated_jpeg_is_skipped_and_not_used_half_grey(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(tmp_path / "torn.jpg")
    data = (tmp_path / "torn.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(data[: len(data) // 2])
    _save(tmp_path / "whole.png", (1, 2, 3))
    assert {_color(background) for background in _call(Folder(str(tmp_path)), list(range(10)))} == {(1, 2, 3)}
    assert "torn.jpg" in caplog.text


def test_greyscale_palette_and_transparent_photographs_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK"):
        folder = tmp_path / mode
        folder.mkdir()
        suffix = "tif" if mode == "CMYK" else "png"
        grey = PIL.Image.new("RGB", (30, 30), (120, 120, 120))
        (grey.quantize() if mode == "P" else grey.convert(mode)).save(folder / f"picture.{suffix}")
        (background,) = _call(Folder(str(folder)), [0])
        assert background.shape == (48, 64, 3)
        assert np.abs(background.astype(int) - 120).max() <= 2


@pytest.mark.parametrize("content", ["missing", "empty", "unreadable"])
def test_a_folder_without_photographs_is_one_sentence_that_names_the_field(tmp_path: Path, content: str) -> None:
    folder = tmp_path / content
    if content != "missing":
        folder.mkdir()
        (folder / "notes.txt").write_text("no picture")
    if content == "unreadable":
        (folder / "bad.png").write_text("no picture")
    else:
        with pytest.raises(UnavailableError, match=rf"generate\.folder: .*{content}"):
            Folder(str(folder)).check()
    with pytest.raises(UnavailableError, match=rf"generate\.folder: .*{content}"):
        _call(Folder(str(folder)), [1])


def test_cover_crops_to_the_aspect_and_resizes_both_ways() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    assert cover(image, 40, 40, x=0.0).max() == 0
    assert cover(image, 40, 40, x=1.0).min() == 255
    centred = cover(image, 10, 10)
    assert centred.shape == (10, 10, 3)
    assert (centred[:, :5] == 0).all()
    assert (centred[:, 5:] == 255).all()
    assert cover(image, 100, 300).shape == (100, 300, 3)
    assert cover(image, 1, 500).shape == (1, 500, 3)
    np.testing.assert_array_equal(cover(image, 40, 80), image)
