"""The contact sheet: a row per image, as training sees it, or why it stays as it is."""

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from augment import Cache, prewarm
from augment.cli import app
from augment.commands.sheet import write_sheet
from augment.errors import InputError
from augment.testing.pictures import write_folder
from tests import simple


@pytest.fixture
def store(tmp_path):
    """A cache of three scenes and one image without an object."""
    paths = write_folder(tmp_path / "images", 3)
    PIL.Image.new("RGB", (112, 96), "gray").save(tmp_path / "images" / "cup" / "empty.png")
    cache = Cache(tmp_path / "cache")
    prewarm(tmp_path / "images", cache, simple.recipe(), variants=2, workers=0, progress=False)
    return cache, paths


def has_red_text(pixels):
    return bool(((pixels == (180, 40, 40)).all(-1)).any())


def test_each_image_has_a_row_and_an_unusable_one_says_why(store, tmp_path):
    assert write_sheet(store[0], tmp_path / "sheet.png") == 4
    pixels = np.asarray(PIL.Image.open(tmp_path / "sheet.png"))
    rows = np.split(pixels, 4)
    assert sorted(map(has_red_text, rows)) == [False, False, False, True]


def test_the_same_store_gives_the_same_sheet(store, tmp_path):
    for name in ("first.png", "second.png"):
        write_sheet(store[0], tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_a_large_store_is_shown_in_part(store, tmp_path):
    assert write_sheet(store[0], tmp_path / "sheet.png", rows=2) == 2


def test_images_whose_files_are_gone_are_left_out(store, tmp_path):
    store[1][0].unlink()
    assert write_sheet(store[0], tmp_path / "sheet.png") == 3
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="has no images to show whose files are still there"):
        write_sheet(store[0], tmp_path / "sheet.png")


@pytest.mark.parametrize("name", ["nowhere/sheet.png", "sheet.none"])
def test_a_sheet_that_cannot_be_written_is_one_sentence(store, tmp_path, name):
    with pytest.raises(InputError, match="the sheet cannot be written"):
        write_sheet(store[0], tmp_path / name)


def test_prewarm_writes_one(tmp_path):
    write_folder(tmp_path / "images", 2)
    arguments = ["prewarm", tmp_path / "images", "--cache", tmp_path / "cache", "--sheet", tmp_path / "sheet.png"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0
    assert "2 rows:" in done.output
    assert (tmp_path / "sheet.png").is_file()
