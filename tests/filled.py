"""A cache of eight small scenes, and what a transform may make of them."""

import cv2
import numpy as np
import torch
from torchvision import tv_tensors

from augment import Cache, prewarm
from augment.chain import Chain
from augment.imaging.composite import composite
from augment.keys import image_key
from augment.testing.pictures import scene, write_folder
from tests import simple

VARIANTS = 3


def fill(folder):
    """A cache with three variants of eight scenes, and the scenes' paths."""
    paths = write_folder(folder / "images", 8)
    store = Cache(folder / "cache", codec="png")
    report = prewarm(paths, store, simple.recipe(), variants=VARIANTS, workers=0, progress=False)
    assert report.complete == 8
    return store, paths


def possible(cache, image):
    """What a transform may make of the image, one result for each variant."""
    chain, key, pixels = Chain(simple.recipe(), cache), image_key(image), np.asarray(image)
    matte = chain.artifact(simple.REMOVE, key)
    return [composite(pixels, matte, chain.artifact(simple.GENERATE, key, v)) for v in range(VARIANTS)]


def is_one_of(pixels, expected):
    return any(np.array_equal(pixels, one) for one in expected)


def counted(replace):
    """The counts that are not 0."""
    return {name: count for name, count in replace.counts.items() if count}


def boxed():
    """Labels of the first of the scenes: the box, mask and center of the inner part of its disc."""
    mask = cv2.erode(scene(1)[1], np.ones((5, 5))) == 255
    y, x = np.nonzero(mask)
    size = mask.shape
    box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
    return {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor(box), format="XYXY", canvas_size=size),
        "masks": tv_tensors.Mask(torch.from_numpy(mask)[None]),
        "keypoints": tv_tensors.KeyPoints(torch.tensor([[x.mean(), y.mean()]]), canvas_size=size),
    }
