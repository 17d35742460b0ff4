import sys

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from augment import prewarm
from augment.bias import Bias, measure
from augment.errors import AugmentError, InputError, StoreError
from augment.store.cache import Cache
from tests import simple

SIDE = 48
LABELS = 8
STEP = 20  # of green, from one class to the next, in the object and in the background


class Squares:
    """A red square near the middle of a blue ground; the class is told by the green in the one and in the other."""

    classes = tuple(f"class {label}" for label in range(LABELS))

    def __init__(self, each=3):
        rng = np.random.default_rng(0)
        self.items = []
        for number in range(LABELS * each):
            label = number % LABELS
            image = np.empty((SIDE, SIDE, 3), np.uint8)
            image[:] = (0, STEP * label, 200)
            image[0, :, 2] = number  # so that no two are one image
            left, top = rng.integers(14, 22, 2)
            image[top : top + 12, left : left + 12] = (240, STEP * label, 0)
            self.items.append((PIL.Image.fromarray(image), label))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture
def squares():
    return Squares()


@pytest.fixture
def store(tmp_path, squares):
    cache = Cache(tmp_path / "cache", codec="png")
    prewarm(squares, cache, simple.recipe(), workers=0, progress=False)
    return cache


def logits(green):
    label = (green * 255 / STEP).round().long().clamp(0, LABELS - 1)
    return torch.nn.functional.one_hot(label, LABELS).float()


def by_background(images):
    return logits(images[:, 1, -1].median(1).values)


def by_object(images):
    """The class of the reddest pixel, and 0 where nothing is red."""
    red, green, _ = images.flatten(2).unbind(1)
    excess, place = (red - green).max(1)
    return logits(torch.where(excess > 0.2, green.gather(1, place[:, None])[:, 0], 0))


def by_center(images):
    third = SIDE // 3
    return by_object(images[:, :, third:-third, third:-third])


def by_large_object(images):
    """Knows the object where it covers a hundred pixels."""
    large = ((images[:, 0] - images[:, 1]) > 0.2).flatten(1).sum(1) > 100
    return torch.where(large[:, None], by_object(images), logits(torch.zeros(len(images))))


def test_who_looks_at_the_background_alone_has_a_gap_near_one(store, squares):
    bias = measure(by_background, squares, store)
    assert bias.original == bias.mixed_same == 1
    assert bias.bg_gap == bias.mixed_same - bias.mixed_rand > 0.7
    assert bias.only_fg == 1 / LABELS
    assert (bias.count, bias.skipped) == (24, 0)


def test_who_looks_at_the_object_alone_has_no_bias_at_all(store, squares):
    bias = measure(by_object, squares, store)
    assert bias.original == bias.mixed_same == bias.mixed_rand == bias.only_fg == 1
    assert bias.bg_gap == bias.center_bias == 0
    assert bias.relative_size == {0.5: 1, 0.75: 1, 1: 1, 1.25: 1, 1.5: 1}


def test_who_looks_at_the_middle_alone_has_a_center_bias(store, squares):
    bias = measure(by_center, squares, store)
    assert bias.position[1][1] == 1
    others = [bias.position[row][column] for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    assert others == [1 / LABELS] * 8  # nothing is seen there, and 0 is said
    assert bias.center_bias == 1 - 1 / LABELS


def test_who_overlooks_small_objects_has_a_size_bias(store, squares):
    bias = measure(by_large_object, squares, store, sizes=(0.5, 2))
    assert bias.relative_size == {0.5: 1 / LABELS, 1: 1, 2: 1}


def test_the_worst_corner_and_the_worst_side_decide_on_the_center_bias():
    position = ((0.9, 0.8, 0.3), (0.7, 0.8, 0.6), (0.9, 0.9, 0.9))
    bias = Bias(1, 1, 1, 1, position, {1.0: 1.0}, 10, 0)
    assert bias.center_bias == pytest.approx(1 - (0.3 + 0.6) / 1.6)
    nothing = Bias(0, 0, 0, 0, ((0.0,) * 3,) * 3, {1.0: 0.0}, 10, 0)
    assert np.isnan(nothing.center_bias)
    assert np.isnan(nothing.relative_size[1.0])


def test_the_seed_alone_decides_on_the_backgrounds(store, squares):
    first = measure(by_background, squares, store, seed=4)
    assert measure(by_background, squares, store, seed=4, batch_size=5) == first
    assert any(measure(by_background, squares, store, seed=seed) != first for seed in range(5, 9))


def test_a_module_gets_its_mode_back_and_sees_no_gradient(store, squares):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.nn.Dropout().eval()

        def forward(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            return by_object(images)

    module = Module()
    assert measure(module, squares, store).original == 1
    assert module.training
    assert not module.part.training


def test_a_transform_makes_the_classifiers_input(store, squares):
    def seen(images):
        assert images.shape[1:] == (3, 24, 24)
        assert images.dtype == torch.float64
        return by_object(images)

    bias = measure(seen, squares, store, transform=lambda image: image[:, ::2, ::2].double() / 255)
    assert bias.original == 1


def test_images_of_several_sizes_need_a_transform(tmp_path, squares):
    image, label = squares[0]
    squares.items += [(image.resize((60, 50)), label), (image.resize((50, 60)), label)]
    prewarm(squares, tmp_path / "c", simple.recipe(), workers=0, progress=False)
    with pytest.raises(InputError, match="differ in size: pass a `transform`"):
        measure(by_object, squares, tmp_path / "c")
    small = measure(
        by_object,
        squares,
        tmp_path / "c",
        transform=lambda image: (
            torch.from_numpy(cv2.resize(image.permute(1, 2, 0).numpy(), (48, 48))).permute(2, 0, 1) / 255
        ),
    )
    assert small.count == 26


def test_what_the_store_lacks_is_skipped(store, squares):
    grey = PIL.Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    squares.items.append((grey, 0))
    bias = measure(by_object, squares, store)
    assert (bias.count, bias.skipped) == (24, 1)


def test_a_recipe_may_be_a_name_a_file_or_a_recipe(store, squares, tmp_path):
    recipe = simple.recipe()
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    prewarm(squares, store, simple.recipe(generate={"strength": 5}), workers=0, progress=False)
    first = measure(by_object, squares, store, recipe=recipe)
    for one in (path, str(path), "simple"):
        assert measure(by_object, squares, store, recipe=one) == first
    with pytest.raises(StoreError, match="not filled with the recipe 'sd15'"):
        measure(by_object, squares, store, recipe="sd15")


@pytest.mark.parametrize("kind", ["matte", "plate"])
def test_a_damaged_entry_is_a_miss(store, squares, kind):
    for name in store.names():
        if name.startswith(f"{kind}/"):
            # Whole by its checksum, and not what its name says.
            store.put(name, b"no such thing", {"group": "class 0"})
            break
    bias = measure(by_object, squares, store)
    assert bias.count + bias.skipped == 24
    assert bias.count == (23 if kind == "matte" else 24)


def test_one_image_of_a_class_has_no_other_to_take_a_background_from(tmp_path):
    squares = Squares(each=1)
    prewarm(squares, tmp_path / "c", simple.recipe(), workers=0, progress=False)
    with pytest.raises(InputError, match="no plate of another image of the same class"):
        measure(by_object, squares, tmp_path / "c")


def test_a_store_without_classes_or_without_the_images_is_refused(tmp_path, store, squares):
    plain = Cache(tmp_path / "plain")
    prewarm([image for image, _ in squares.items], plain, simple.recipe(), workers=0, progress=False)
    with pytest.raises(InputError, match="knows no classes to mix: prewarm with `groups=`"):
        measure(by_object, squares, plain)
    with pytest.raises(InputError, match="no usable matte for any image"):
        measure(by_object, [(PIL.Image.new("RGB", (9, 9)), 0)], store)
    with pytest.raises(StoreError, match="is not a store"):
        measure(by_object, squares, tmp_path / "nowhere")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"sizes": (1, 0)}])
def test_an_argument_that_cannot_work_is_named(store, squares, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        measure(by_object, squares, store, **wrong)


def test_the_table_says_everything(store, squares):
    lines = str(measure(by_center, squares, store)).splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["Original", "Mixed-Same", "Mixed-Rand", "Only-FG", "BG-Gap"]
    assert [line.split() for line in lines[5:9]] == [
        ["position", "12.5%", "12.5%", "12.5%"],
        ["12.5%", "100.0%", "12.5%"],
        ["12.5%", "12.5%", "12.5%"],
        ["center", "bias", "0.875"],
    ]
    assert lines[9].split() == ["size", "x0.5", "x0.75", "x1", "x1.25", "x1.5"]
    assert "of 24 images, 0 more skipped" in lines  # advice follows


def test_the_plot_is_drawn(store, squares, tmp_path):
    pytest.importorskip("matplotlib")
    measure(by_center, squares, store).plot(tmp_path / "bias.png")
    assert np.asarray(PIL.Image.open(tmp_path / "bias.png").convert("L")).std() > 10


def test_without_matplotlib_the_plot_says_what_to_install(store, squares, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AugmentError, match="pip install matplotlib"):
        measure(by_object, squares, store).plot(tmp_path / "bias.png")


def test_the_result_ends_with_advice_drawn_from_what_was_measured(store, squares):
    by_ground = str(measure(by_background, squares, store)).splitlines()
    assert by_ground[-1].startswith("gap ")
    assert by_ground[-1].endswith('points: take p=1 and source="pool:other"')
    even = ((1.0,) * 3,) * 3
    leaking = Bias(0.9, 0.9, 0.59, 0.5, even, {1.0: 1.0}, 400, 0)
    assert leaking.advice == ['gap 31 points: take p=0.75 and source="pool:other"']
    # Four images in a hundred, of few images, may be chance.
    assert 'source="pool" are enough' in Bias(0.9, 0.9, 0.83, 0.5, even, {1.0: 1.0}, 40, 0).advice[0]
    centered = ((0.2,) * 3, (0.2, 1.0, 0.2), (0.2,) * 3)
    uneven = Bias(0.9, 0.9, 0.9, 0.5, centered, {0.5: 0.3, 1.0: 0.9}, 400, 0)
    assert uneven.advice[1:] == [
        'center bias 0.80: take placement=Placement(translate="uniform")',
        "accuracy falls with the object's size: take placement=Placement(scale=(0.5, 1))",
    ]


def test_the_worst_group_on_mixed_backgrounds_is_reported(store, squares):
    def blind_to_the_last(images):
        known = by_object(images)
        return torch.where(known.argmax(1, keepdim=True) == LABELS - 1, logits(torch.zeros(len(images))), known)

    bias = measure(blind_to_the_last, squares, store)
    assert bias.worst_group == (f"class {LABELS - 1}", 0.0)
    assert f"worst group    0.0% class {LABELS - 1}" in str(bias)
