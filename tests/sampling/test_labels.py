"""What protects labels: no labelled pixel is painted over; if that is impossible, the sample is returned unchanged."""

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from torchvision import tv_tensors

from augment import Cache, prewarm
from augment.artifacts import Matte
from augment.imaging.composite import BLENDS, with_edge_colors
from augment.sampling.labels import Labels, on_object, protected
from augment.sampling.sources import Source
from augment.testing.pictures import scene
from augment.torchvision import ReplaceBackground
from tests import simple

IMAGE, ALPHA = scene(0)
MATTE = with_edge_colors(Matte.from_full(ALPHA), IMAGE)
HEIGHT, WIDTH = ALPHA.shape
FAR = np.zeros(ALPHA.shape, bool)
FAR[2:9, 3:30] = True


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of six scenes, two variants each."""
    folder = tmp_path_factory.mktemp("scenes")
    images = [PIL.Image.fromarray(scene(seed)[0]) for seed in range(6)]
    prewarm(images, folder / "cache", simple.recipe(), variants=2, workers=0, progress=False)
    return Cache(folder / "cache")


@given(hnp.arrays(np.uint8, (HEIGHT, 7)), hnp.arrays(bool, (2, HEIGHT, 7)))
def test_masks_are_united_with_the_matte_and_soft_pixels_keep_their_colors(alpha, masks):
    image = np.random.default_rng(0).integers(0, 256, (*alpha.shape, 3), np.uint8)
    matte = with_edge_colors(Matte.from_full(alpha), image)
    widened = protected(matte, [Labels(masks=masks)], image)
    united = masks.any(0)
    if isinstance(widened, str):
        assert widened == "mask"
        assert np.where(united, 255, alpha).min() >= 128 or not np.where(united, 255, alpha).any()
        return
    np.testing.assert_array_equal(widened.uncropped(), np.where(united, 255, alpha))
    if len(matte.edge_colors):
        colors = np.zeros_like(image)
        colors[(alpha > 0) & (alpha < 255)] = matte.edge_colors
        soft = (widened.uncropped() > 0) & (widened.uncropped() < 255)
        np.testing.assert_array_equal(widened.edge_colors, colors[soft])


def test_labels_that_the_matte_holds_already_change_nothing():
    y, x = np.argwhere(ALPHA == 255).mean(0)
    labels = [Labels(masks=(ALPHA == 255)[None]), Labels(points=np.array([[x, y]]))]
    assert protected(MATTE, labels, IMAGE) is MATTE


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (Labels(masks=np.ones((1, 40, 40), bool)), "mask"),
        (Labels(masks=np.ones((1, HEIGHT, WIDTH), bool)), "mask"),
        (Labels(boxes=np.array([[0.0, 0, 20, 20]])), "box"),
        (Labels(boxes=np.array([[-50.0, -50, -20, -20]])), "box"),
        (Labels(boxes=np.array([[30.0, 30, 30, 50]])), "box"),
        (Labels(boxes=np.array([[np.nan, 0, 9, 9]])), "box"),
        (Labels(points=np.array([[3.0, 3]])), "keypoint"),
        (Labels(points=np.array([[-1.0, 50]])), "keypoint"),
        (Labels(points=np.array([[np.nan, 50]])), "keypoint"),
        (Labels(points=np.array([[WIDTH + 3.0, 50]])), "keypoint"),
    ],
)
def test_what_cannot_be_held_is_named(label, reason):
    assert protected(MATTE, [label], IMAGE) == reason
    assert not on_object(MATTE, [label])


def test_a_box_that_the_matte_misses_is_refined_by_grabcut():
    image = IMAGE.copy()
    second = cv2.ellipse(np.zeros(ALPHA.shape, np.uint8), (18, 60), (10, 16), 0, 0, 360, 255, -1) > 0
    image[second] = (40, 40, 220)
    widened = protected(MATTE, [Labels(boxes=np.array([[7.0, 43, 30, 78]]))], image)
    assert isinstance(widened, Matte)
    held = widened.uncropped() == 255
    assert held[second].mean() > 0.97
    assert held[(ALPHA == 0) & ~second].mean() < 0.01
    again = protected(MATTE, [Labels(boxes=np.array([[7.0, 43, 30, 78]]))], image)
    np.testing.assert_array_equal(again.uncropped(), widened.uncropped())  # whatever OpenCV's generator drew before


def test_labels_are_the_objects_only_where_they_agree_with_the_matte():
    solid = ALPHA >= 128
    y, x = np.nonzero(solid)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float64)
    assert on_object(MATTE, [Labels(masks=solid[None], boxes=box, points=np.array([[x.mean(), y.mean()]]))])
    assert on_object(MATTE, [Labels(boxes=box + np.array([-2, -2, 2, 2]))])
    assert not on_object(MATTE, [Labels(boxes=box + np.array([-40, -9, 9, 9]))])
    assert not on_object(MATTE, [Labels(masks=np.stack([solid, FAR]))])
    assert on_object(MATTE, [])


def test_no_labelled_pixel_ever_differs_in_1000_samples(cache):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    sources = ["own", "pool", {"plates:pool": 1, "own": 1}, Source("pool:other", flip=0.5)]
    transforms = [
        ReplaceBackground(cache, p=1, blend=blend, harmonize=harmonize, source=sources[n % 4], on_miss="pool")
        for n, (blend, harmonize) in enumerate((b, h) for b in BLENDS for h in (0.0, 0.7))
    ]
    for number in range(1000):
        image, alpha = scene(number % 6)
        labels, exact = random_labels(rng, alpha)
        transform = transforms[number % len(transforms)]
        result, *after = transform(PIL.Image.fromarray(image), *labels)
        np.testing.assert_array_equal(np.asarray(result)[exact], image[exact])
        for one, other in zip(labels, after, strict=True):
            assert one is other
    totals = {name: sum(transform.counts[name] for transform in transforms) for name in transforms[0].counts}
    assert totals["hits"] > 400
    assert min(totals[f"protected: {kind}"] for kind in ("mask", "box", "keypoint")) > 5
    assert sum(totals.values()) == 1000


def random_labels(rng, alpha):
    """Some masks, boxes and keypoints, mostly on the object, and the pixels that they label."""
    labels, exact = [], np.zeros(alpha.shape, bool)
    y, x = np.nonzero(alpha >= 128)
    kinds = rng.random(3) < (0.5, 0.4, 0.4)
    if kinds[0]:
        mask = alpha > rng.integers(0, 200)
        if rng.random() < 0.5:
            left, top = rng.integers(0, 80, 2)
            mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = True
        if rng.random() < 0.03:
            mask[:] = True
        labels.append(tv_tensors.Mask(torch.from_numpy(mask)))
        exact |= mask
    if kinds[1]:
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) + rng.integers(-12, 13, 4)
        if rng.random() < 0.2:
            box = np.array([2, 2, 20, 20]) + rng.integers(-2, 3, 4)
        labels.append(tv_tensors.BoundingBoxes(box[None], format="XYXY", canvas_size=alpha.shape))
        inside = np.zeros_like(exact)
        inside[max(0, box[1]) : box[3], max(0, box[0]) : box[2]] = True
        exact |= inside & (alpha == 255)
    if kinds[2]:
        picked = rng.integers(0, len(x), 3)
        points = np.stack([x[picked], y[picked]], 1) + (rng.integers(-30, 30, 2) if rng.random() < 0.3 else 0)
        labels.append(
            tv_tensors.KeyPoints(points.clip(0, [alpha.shape[1] - 1, alpha.shape[0] - 1]), canvas_size=alpha.shape)
        )
        exact[tuple(points.clip(0, [alpha.shape[1] - 1, alpha.shape[0] - 1])[:, ::-1].T)] = True
    return labels or [tv_tensors.Mask(torch.zeros(alpha.shape))], exact


@pytest.mark.parametrize("blend", BLENDS)
def test_a_sample_without_pixel_labels_is_blended_as_asked(cache, blend):
    image = scene(0)[0]
    torch.manual_seed(0)
    plain = np.asarray(ReplaceBackground(cache, p=1)(PIL.Image.fromarray(image)))
    torch.manual_seed(0)
    result = np.asarray(ReplaceBackground(cache, p=1, blend=blend, harmonize=0.5)(PIL.Image.fromarray(image)))
    assert (result != plain).any()
