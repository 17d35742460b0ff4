"""The default source where a store holds little."""

import logging

import numpy as np
import PIL.Image

from augment import Cache, prewarm
from augment.testing.pictures import write_folder
from augment.torchvision import ReplaceBackground
from tests import simple


def test_a_store_of_one_image_works_and_says_what_it_has(tmp_path, caplog):
    paths = write_folder(tmp_path / "images", 1)
    prewarm(paths, Cache(tmp_path / "c", codec="png"), simple.recipe(), workers=0, progress=False)
    with caplog.at_level(logging.WARNING):
        replace = ReplaceBackground(tmp_path / "c", p=1)
    assert "holds those of 1" in caplog.text
    image = PIL.Image.open(paths[0]).convert("RGB")
    assert not np.array_equal(np.asarray(replace(image)), np.asarray(image))
    assert replace.counts["hits"] == 1


def test_an_image_that_fills_its_frame_gets_its_own_background_if_no_other_may_serve(tmp_path):
    """Its object covers more than `max_coverage`, so the pool is empty."""
    paths = write_folder(tmp_path / "images", 2)
    prewarm(paths, Cache(tmp_path / "c", codec="png"), simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1, source={"weights": "pool", "max_coverage": 0.0})
    replace(PIL.Image.open(paths[0]).convert("RGB"))
    assert replace.counts["hits"] == 1
