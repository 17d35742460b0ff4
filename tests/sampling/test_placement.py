"""Where objects go, and that every label goes along exactly."""

import pickle

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format as convert

from augment import Cache, prewarm
from augment.artifacts import Matte
from augment.errors import InputError
from augment.imaging.composite import composite
from augment.sampling.placement import Placement, PlacementDraws, place
from augment.torchvision import ReplaceBackground
from tests import simple

SIZE = (96, 128)
uniforms = st.floats(0, 1, exclude_max=True)
draws = st.builds(PlacementDraws, *[uniforms] * 5)
placements = st.builds(
    Placement,
    scale=st.tuples(st.floats(0.3, 1), st.floats(1, 3)),
    translate=st.sampled_from(["keep", "uniform", "center"]),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    rotate=st.sampled_from([0.0, 30.0, 180.0]),
    overhang=st.sampled_from([0.0, 0.3]),
)
boxes = st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(4, 60), st.integers(4, 50))


def block(left, top, width, height, size=SIZE):
    """A matte that is a rectangle."""
    alpha = np.zeros(size, np.uint8)
    alpha[top : top + height, left : left + width] = 255
    return Matte.from_full(alpha)


def moved_box(matte, move):
    box = np.array([matte.box], np.float64)
    return box[0] if move is None else move.boxes(box)[0]


@given(placements, boxes, draws)
def test_the_object_stays_inside_but_for_what_may_overhang(placement, box, drawn):
    matte = block(*box)
    move = place(placement, matte, drawn)
    if move is None:
        return
    left, top, right, bottom = matte.box
    corners = move.corners(np.array([[x, y] for x in (left, right) for y in (top, bottom)], np.float64))
    lowest, highest = corners.min(0), corners.max(0)
    # Places of unscaled objects are rounded to whole pixels; and where alpha passes a half, a corner is a little round.
    slack = placement.overhang * (highest - lowest) + 0.51 + 0.4 * move.scale
    assert (lowest >= -slack).all()
    assert (highest <= np.array(SIZE[::-1]) + slack).all()


@given(boxes, draws, st.floats(0.4, 1.6))
def test_scale_is_the_factor_of_lengths_unless_that_would_not_fit(box, drawn, scale):
    matte = block(*box)
    move = place(Placement((scale, scale)), matte, drawn)
    left, top, right, bottom = moved_box(matte, move)
    fits = scale * box[2] <= SIZE[1] and scale * box[3] <= SIZE[0]
    expected = scale if fits else min(SIZE[1] / box[2], SIZE[0] / box[3])
    # An object that lies at the image's edge on both sides is never scaled.
    touches = (box[0] + box[2] >= SIZE[1]) or (box[1] + box[3] >= SIZE[0])
    if not touches:
        np.testing.assert_allclose((right - left, bottom - top), np.multiply(box[2:], expected), rtol=1e-6)


@given(draws)
def test_the_default_moves_nothing(drawn):
    assert place(Placement(), block(20, 30, 40, 25), drawn) is None


def test_places_are_uniform_or_likelier_near_the_middle():
    matte = block(10, 10, 28, 16)
    rng = np.random.default_rng(0)
    for translate, deviation in (("uniform", 1 / np.sqrt(12)), ("center", 1 / np.sqrt(24))):
        placement = Placement(translate=translate)
        lefts = [moved_box(matte, place(placement, matte, PlacementDraws(*rng.random(5))))[:2] for _ in range(1500)]
        shares = np.array(lefts) / (SIZE[1] - 28, SIZE[0] - 16)
        np.testing.assert_allclose(shares.mean(0), 0.5, atol=0.03)
        np.testing.assert_allclose(shares.std(0), deviation, atol=0.02)
        assert shares.min() < 0.06
        assert shares.max() > 0.94


def test_flips_turns_and_scales_have_the_distributions_asked_for():
    matte = block(50, 40, 20, 12)
    placement = Placement(scale=(0.5, 1.5), flip=0.3, rotate=40)
    rng = np.random.default_rng(1)
    matrices = [place(placement, matte, PlacementDraws(*rng.random(5))).matrix[:, :2] for _ in range(1500)]
    flipped = [np.linalg.det(m) < 0 for m in matrices]
    scales = [np.sqrt(abs(np.linalg.det(m))) for m in matrices]
    angles = [np.degrees(np.arctan2(-m[0, 1], m[1, 1])) for m in matrices]
    assert 0.26 < np.mean(flipped) < 0.34
    assert (round(min(scales), 1), round(max(scales), 1)) == (0.5, 1.5)
    assert abs(np.mean(scales) - 1) < 0.03
    assert -40 <= min(angles) < -38 < 38 < max(angles) <= 40
    assert abs(np.mean(angles)) < 2.5


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_an_object_cut_off_by_the_edge_stays_at_that_edge_upright(side):
    box = {"left": (0, 30, 20, 20), "top": (30, 0, 20, 20), "right": (108, 30, 20, 20), "bottom": (30, 76, 20, 20)}
    matte = block(*box[side])
    placement = Placement(scale=(0.5, 1.5), translate="uniform", flip=0.5, rotate=90, overhang=0.2)
    rng = np.random.default_rng(2)
    for _ in range(50):
        drawn = PlacementDraws(*rng.random(5))
        move = place(placement, matte, drawn)
        left, top, right, bottom = moved_box(matte, move)
        mirrored = move is not None and move.matrix[0, 0] < 0
        at = {"left": "right", "right": "left"}.get(side, side) if mirrored else side
        edge = {"left": left, "top": top, "right": SIZE[1] - right, "bottom": SIZE[0] - bottom}[at]
        assert abs(edge) < 1e-6
        assert move is None or abs(move.matrix[0, 1]) < 1e-9
        image = np.full((*SIZE, 3), 200, np.uint8)
        result = composite(image, matte, np.zeros_like(image), matrix=None if move is None else move.matrix)
        rim = {"left": result[:, 0], "top": result[0], "right": result[:, -1], "bottom": result[-1]}[at]
        assert rim.max() > 190  # and does not fade towards it


def test_an_object_as_wide_as_the_image_keeps_its_size():
    matte = block(0, 50, 128, 46)
    move = place(Placement(scale=(0.5, 0.5), translate="uniform", flip=1.0), matte, PlacementDraws(0, 0, 0, 0, 0))
    np.testing.assert_allclose(move.matrix, [[-1, 0, 128], [0, 1, 0]])


@given(boxes, draws, st.sampled_from([0.0, 1.0]))
@settings(max_examples=40)
def test_an_object_moved_without_scaling_comes_through_byte_for_byte(box, drawn, flip):
    matte = block(*box)
    image, background = np.random.default_rng(3).integers(0, 256, (2, *SIZE, 3), np.uint8)
    move = place(Placement(translate="uniform", flip=flip), matte, drawn)
    if move is None:
        return
    result = composite(image, matte, background, matrix=move.matrix)
    labelled = matte.uncropped() == 255
    sources = move.masks(np.moveaxis(image, 2, 0))
    after = move.masks(labelled)
    assert after.sum() == labelled.sum()
    np.testing.assert_array_equal(result[after], np.moveaxis(sources, 0, 2)[after])
    np.testing.assert_array_equal(result[~after], background[~after])


@given(placements, boxes, draws)
@settings(max_examples=40)
def test_masks_of_every_type_move_alike(placement, box, drawn):
    move = place(placement, block(*box), drawn)
    if move is None:
        return
    solid = block(*box).uncropped() > 0
    expected = move.masks(solid)
    for dtype in (np.uint8, np.int64, np.float32):
        np.testing.assert_array_equal(move.masks((solid * 3).astype(dtype)), expected * 3)
    np.testing.assert_array_equal(move.masks(np.stack([solid, ~solid]))[0], expected)


@given(placements, boxes, draws)
@settings(max_examples=40)
def test_a_box_wider_than_its_object_keeps_its_distance(placement, box, drawn):
    matte = block(*box)
    move = place(placement, matte, drawn)
    if move is None or placement.overhang:
        return
    left, top, right, bottom = matte.box
    tight, wide = move.boxes(np.array([[left, top, right, bottom], [left - 1, top - 1, right + 1, bottom + 1]], float))
    margin = move.scale
    expected = (tight + np.array([-margin, -margin, margin, margin])).clip(0, [SIZE[1], SIZE[0]] * 2)
    np.testing.assert_allclose(wide, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0, 1)}, "placement: scale"),
        ({"scale": (2, 1)}, "placement: scale"),
        ({"translate": "left"}, "translate: 'left' is not one of keep, uniform, center"),
        ({"flip": 2}, "placement: flip"),
        ({"rotate": -1}, "placement: rotate"),
        ({"overhang": 0.9}, "placement: overhang"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings, message):
    with pytest.raises(InputError, match=message):
        Placement(**settings)


# --- Rendered: what the labels say against what the pixels show -------------------------------------------------------


FINE = 8


def picture(seed):
    """A red shape with a magenta spot on grey; its mask, its box, and the spot's center by pixel index."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    center = np.array([rng.uniform(44, 84), rng.uniform(36, 60)])
    angles = np.sort(rng.uniform(0, 2 * np.pi, 3 + seed % 4))
    corners = center + rng.uniform(12, 24, len(angles))[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = np.int32(np.concatenate([corners, [center]]) * FINE)
    fine = np.zeros((FINE * height, FINE * width), np.uint8)
    cv2.fillPoly(fine, [points[:-1]], 255)
    for start, end in zip(points, np.roll(points, 1, axis=0), strict=True):  # rounded: the label of a tip is anyone's
        cv2.line(fine, tuple(map(int, start)), tuple(map(int, end)), 255, 12 * FINE)
    cv2.circle(fine, tuple(map(int, points[-1])), 10 * FINE, 255, -1)
    spot_fine = cv2.circle(np.zeros_like(fine), tuple(map(int, points[-1])), 4 * FINE, 255, -1)
    alpha, spot = (
        cv2.resize(m, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255 for m in (fine, spot_fine)
    )
    image = (
        np.array([120, 120, 120]) * (1 - alpha) + np.array([230, 110, 20]) * alpha
    )  # half of a soft edge is half in the matte, too
    image = image * (1 - spot) + np.array([230, 110, 250]) * spot
    (y, x), (v, u) = np.nonzero(fine), np.nonzero(spot_fine)
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / FINE
    return (
        image.round().astype(np.uint8),
        alpha[..., 0] > 0.5,
        box,
        tuple((np.array([u.mean(), v.mean()]) + 0.5) / FINE - 0.5),
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A cache of twelve such pictures, and the pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    found = [picture(seed) for seed in range(12)]
    images = [PIL.Image.fromarray(image) for image, *_ in found]
    recipe = simple.recipe(generate={"strength": 10})
    report = prewarm(images, folder / "cache", recipe, workers=0, progress=False)
    assert report.complete == 12
    return Cache(folder / "cache"), found


def largest_part(mask):
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax() if count > 1 else mask


def disagreement(pixels, mask, box, point):
    """By how many pixels the labels (a mask, a box and a keypoint) are off what is rendered."""
    large = cv2.resize(pixels, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    red, green, blue = cv2.split(large)
    shown = np.pad(largest_part(cv2.subtract(red, green) > 60), 8)
    # How far the center of each pixel on the wrong side is from the edge.
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 3) for m in (shown, ~shown))
    shown = shown[8:-8, 8:-8]
    distance = cv2.resize((inside - outside)[8:-8, 8:-8] / 4, mask.shape[::-1], interpolation=cv2.INTER_AREA)
    off = np.abs(distance)[mask != (distance > 0)]
    left, top, width, height = cv2.boundingRect(shown.astype(np.uint8))
    bounds = np.array([left, top, left + width, top + height]) / 4
    spot = cv2.subtract(blue, green) * cv2.erode(shown.astype(np.uint8), np.ones((9, 9)))
    spot = np.where(cv2.dilate(largest_part(spot > 60).astype(np.uint8), np.ones((9, 9))), spot, 0)
    moments = cv2.moments(spot)
    center = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    return off.max(initial=0), np.abs(bounds - box).max(), np.hypot(*((center + 0.5) / 4 - 0.5 - point))


EVERY = [
    None,
    Placement(scale=(0.5, 1.6)),
    Placement(translate="uniform"),
    Placement(translate="center", flip=0.5),
    Placement(rotate=180),
    Placement(scale=(0.6, 1.2), translate="uniform", flip=0.5, rotate=60),
    Placement(scale=(0.8, 1.2), translate="uniform", flip=0.5, rotate=20, overhang=0.2),
]


def test_labels_agree_with_what_is_rendered_within_a_pixel_in_500_samples(pictures):
    cache, found = pictures
    torch.manual_seed(0)
    transforms = [ReplaceBackground(cache, p=1, placement=placement) for placement in EVERY]
    worst = np.zeros(3)
    for number in range(504):
        image, mask, box, point = found[number % len(found)]
        sample = (
            PIL.Image.fromarray(image),
            tv_tensors.Mask(torch.from_numpy(mask)),
            tv_tensors.BoundingBoxes(
                torch.from_numpy(box)[None],
                format="XYXY",
                canvas_size=SIZE,
            ),
            tv_tensors.KeyPoints(torch.tensor([point], dtype=torch.float64), canvas_size=SIZE),
        )
        transform = transforms[number % len(transforms)]
        pixels, new_mask, new_box, new_point = transform(*sample)
        found_off = disagreement(np.asarray(pixels), new_mask.numpy(), new_box.numpy()[0], new_point.numpy()[0])
        worst = np.maximum(worst, found_off)
    assert [transform.counts["hits"] for transform in transforms] == [72] * len(EVERY)
    assert [transform.counts["unmoved"] for transform in transforms] == [0] * len(EVERY)
    assert worst.max() < 1, f"mask, box, keypoint: {worst}"


def test_the_labels_of_torchvision_keep_type_format_and_element_type(pictures):
    cache, found = pictures
    image, mask, box, point = found[0]
    box = torch.from_numpy(box.round()).long()[None]
    upright = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=SIZE)
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform", flip=1.0))
    labels = [
        upright,
        convert(upright, new_format="XYWH"),
        tv_tensors.BoundingBoxes(box.float(), format="XYXY", canvas_size=SIZE),
        tv_tensors.BoundingBoxes(
            torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2], torch.zeros(1, 1)], dim=1),
            format="CXCYWHR",
            canvas_size=SIZE,
        ),
        tv_tensors.Mask(torch.from_numpy(mask * 7).long()[None]),
        tv_tensors.KeyPoints(torch.tensor([[list(map(round, point))]]), canvas_size=SIZE),
    ]
    torch.manual_seed(1)
    _, *after = replace(PIL.Image.fromarray(image), *labels)
    assert replace.counts["unmoved"] == 0
    for one, other in zip(labels, after, strict=True):
        assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
        assert getattr(one, "format", None) == getattr(other, "format", None)
    as_upright = [convert(one, new_format="XYXY").as_subclass(torch.Tensor).float() for one in after[:3]]
    corners = convert(after[3], new_format="XYXYXYXY").as_subclass(torch.Tensor).reshape(4, 2)
    as_upright.append(torch.cat([corners.min(0).values, corners.max(0).values])[None])
    for one in as_upright[1:]:
        torch.testing.assert_close(one, as_upright[0])
    assert not torch.equal(after[0], labels[0])
    assert set(after[4].unique().tolist()) == {0, 7}


def test_a_label_off_the_object_forbids_moving_it_and_that_is_counted(pictures):
    cache, found = pictures
    image, mask, *_ = found[0]
    other = np.zeros_like(mask)
    other[2:8, 2:8] = True
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
    torch.manual_seed(2)
    result, masks = replace(PIL.Image.fromarray(image), tv_tensors.Mask(torch.from_numpy(np.stack([mask, other]))))
    assert replace.counts["unmoved"] == replace.counts["hits"] == 1
    np.testing.assert_array_equal(masks.numpy(), np.stack([mask, other]))
    np.testing.assert_array_equal(np.asarray(result)[mask | other], image[mask | other])


def test_labels_shared_by_two_images_forbid_moving_either(pictures):
    cache, found = pictures
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
    replace(*(PIL.Image.fromarray(found[n][0]) for n in (0, 1)), tv_tensors.Mask(torch.from_numpy(found[0][1])))
    assert replace.counts["unmoved"] == replace.counts["hits"] + replace.counts["protected: mask"] == 2


def test_a_placement_survives_pickling():
    placement = Placement(scale=(0.5, 2), translate="center")
    assert pickle.loads(pickle.dumps(placement)) == placement
