"""The torchvision transform: types in and out, arguments, randomness, misses."""

import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

from augment import Cache, prewarm
from augment.errors import InputError, MissError, StoreError
from augment.keys import image_key
from augment.sampling.placement import Placement
from augment.sampling.schedules import Linear
from augment.testing.pictures import scene
from augment.torchvision import Key, ReplaceBackground
from tests import simple
from tests.filled import counted, is_one_of, possible


def test_a_pil_image_comes_back_as_one(cache, image):
    result = ReplaceBackground(cache, p=1, source="own")(image)
    assert isinstance(result, PIL.Image.Image)
    assert is_one_of(np.asarray(result), possible(cache, image))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("wrap", [torch.as_tensor, tv_tensors.Image])
def test_a_tensor_comes_back_as_it_was(cache, image, dtype, wrap):
    tensor = wrap(F.to_dtype(F.pil_to_tensor(image), dtype, scale=True))
    result = ReplaceBackground(cache, p=1, source="own")(tensor)
    assert type(result) is type(tensor)
    assert (result.dtype, result.shape) == (tensor.dtype, tensor.shape)
    back = F.to_dtype(torch.as_tensor(result), torch.uint8, scale=True).permute(1, 2, 0).numpy()
    assert is_one_of(back, possible(cache, image))


def test_grey_images_stay_grey_and_alpha_stays(tmp_path):
    grey = PIL.Image.fromarray(scene(0)[0]).convert("L")
    with_alpha = grey.copy().convert("LA")
    with_alpha.putalpha(PIL.Image.new("L", grey.size, 77))
    # No red in a grey image: its own mask says where the object is.
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    prewarm([(grey, tv_tensors.Mask(scene(0)[1]))], tmp_path / "c", recipe, workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1)
    results = replace(grey), replace(with_alpha), replace(F.pil_to_tensor(grey))
    assert [r.mode for r in results[:2]] == ["L", "LA"]
    assert results[2].shape == (1, 96, 112)
    assert np.asarray(results[1])[..., 1].tolist() == np.full((96, 112), 77).tolist()
    assert replace.counts["hits"] == 3
    inside = scene(0)[1] == 255
    for result in (np.asarray(results[0]), results[2][0].numpy()):
        np.testing.assert_array_equal(result[inside], np.asarray(grey)[inside])
        assert (result != np.asarray(grey)).mean() > 0.5


@pytest.mark.parametrize("mode", ["P", "CMYK", "I;16"])
def test_modes_that_cannot_be_written_back_are_refused_with_the_way_out(cache, mode):
    image = PIL.Image.new(mode, (8, 8))
    with pytest.raises(InputError, match=rf'mode {mode}: call .convert\("RGB"\)'):
        ReplaceBackground(cache, p=1)(image)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint16), "uint16"),
        (tv_tensors.Image(torch.zeros(3, 8, 8, dtype=torch.int32)), "int32"),
        (torch.zeros(2, 8, 8), r"\(1 | 3 | 4, H, W\); got \(2, 8, 8\)"),
        (torch.zeros(8, 8), r"got \(8, 8\)"),
    ],
)
def test_a_tensor_that_cannot_be_written_back_is_refused(cache, tensor, message):
    with pytest.raises(InputError, match=message):
        ReplaceBackground(cache, p=1)(tensor)


@pytest.mark.parametrize("p", [0, 0.5])
def test_what_cannot_be_is_refused_at_every_call_and_not_with_probability_p(cache, image, p):
    replace = ReplaceBackground(cache, p=p)
    palette, tensor = image.convert("P"), torch.zeros(3, 8, 8, dtype=torch.int32)
    for seed in range(12):
        for sample in ((palette,), (tensor,), (image, image.copy(), Key("0" * 32)), (image, Key("1"), Key("2"))):
            torch.manual_seed(seed)
            with pytest.raises(InputError):
                replace(*sample)
    assert replace(image, torch.tensor([7]))[1].tolist() == [7]  # not an image beside one


def test_p_is_the_share_that_is_replaced(cache, image):
    torch.manual_seed(0)
    replace = ReplaceBackground(cache, p=0.3)
    replaced = sum(replace(image) is not image for _ in range(600))
    assert 0.24 < replaced / 600 < 0.36
    assert replace.counts["hits"] == replaced
    assert all(ReplaceBackground(cache, p=0)(image) is image for _ in range(20))


def test_every_variant_is_drawn_about_as_often(cache, image):
    torch.manual_seed(0)
    replace = ReplaceBackground(cache, p=1, source="own")
    seen = [np.asarray(replace(image)).tobytes() for _ in range(300)]
    counts = [seen.count(one.tobytes()) for one in possible(cache, image)]
    assert sum(counts) == 300
    assert min(counts) > 70


def test_the_same_seed_gives_the_same_sequence(cache, image):
    replace = ReplaceBackground(cache, p=0.5)
    sequences = []
    for _ in range(2):
        torch.manual_seed(7)
        sequences.append([np.asarray(replace(image)).tobytes() for _ in range(20)])
    assert sequences[0] == sequences[1]


def test_what_the_store_holds_does_not_change_later_draws(cache, image):
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    draws = []
    for one in (image, other):
        torch.manual_seed(3)
        ReplaceBackground(cache, p=0.5)(one)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_a_miss_is_kept_or_raised(cache):
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    keep = ReplaceBackground(cache, p=1)
    assert keep(other) is other
    assert keep.counts["misses"] == 1
    with pytest.raises(
        MissError, match=f"no background for the image {image_key(other)}.*no other transform runs before"
    ):
        ReplaceBackground(cache, p=1, on_miss="raise")(other)


def test_a_miss_is_computed_and_kept_for_the_next_time(tmp_path, monkeypatch):
    image = PIL.Image.fromarray(scene(0)[0])
    replace = ReplaceBackground(Cache(tmp_path / "c"), p=1, on_miss="compute", recipe=simple.recipe())
    first = replace(image)
    assert first is not image
    assert simple.CALLS["generate"] == 1
    np.testing.assert_array_equal(np.asarray(replace(image)), np.asarray(first))
    assert simple.CALLS["generate"] == 1
    assert replace.counts["hits"] == 2


def test_an_unusable_matte_gives_the_original(tmp_path):
    grey = PIL.Image.new("RGB", (30, 20), (99, 99, 99))
    prewarm([grey], tmp_path / "c", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1, on_miss="raise")
    assert replace(grey) is grey
    assert replace.counts["unusable"] == 1


def test_a_damaged_background_is_a_miss(filled, tmp_path, image):
    cache = Cache(tmp_path / "c")
    prewarm([image], cache, simple.recipe(), workers=0, progress=False)
    name = next(name for name in cache.names() if name.startswith("background/"))
    cache._open().set(name, b"torn")
    assert ReplaceBackground(cache, p=1)(image) is image


def test_a_missing_variant_gives_way_to_another(tmp_path, image):
    cache = Cache(tmp_path / "c")
    prewarm([image], cache, simple.recipe(), variants=3, workers=0, progress=False)
    for name in cache.names():
        if name.startswith("background/") and not name.endswith("/1"):
            cache.delete(name)
    replace = ReplaceBackground(cache, p=1)
    assert len({np.asarray(replace(image)).tobytes() for _ in range(20)}) == 1
    assert replace.counts["hits"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, "p: 1.5"),
        ({"p": lambda epoch: 2}, "p: 2 is not within"),
        ({"on_miss": "ignore"}, "on_miss: 'ignore' is not one of keep, pool, compute, raise"),
        ({"blend": "magic"}, "blend: 'magic' is not one of alpha, feather, poisson"),
        ({"blend": {"alpha": 1, "magic": 1}}, "blend: 'magic' is not one of alpha, feather, poisson"),
        ({"blend": {"feather": -1}}, "blend: feather: -1 is not a weight"),
        ({"blend": {"alpha": float("nan")}}, "blend: alpha: nan is not a weight"),
        ({"blend": {"alpha": 0}}, "blend: no weight is above 0"),
        ({"blend": ["alpha"]}, r"blend: \['alpha'\] is not a name or a mapping"),
        ({"harmonize": 2}, "harmonize: 2"),
        ({"harmonize": "much"}, "harmonize: 'much'"),
        ({"p": "often"}, "p: 'often'"),
        ({"p": None}, "p: None"),
        ({"p": {"schedule": "sine"}}, "names no schedule of linear, cosine"),
        ({"p": {"schedule": "linear", "first": 0}}, "is not a schedule.*first"),
        ({"placement": True}, "placement: True is not a Placement"),
        ({"placement": "center"}, "placement: 'center' is not a Placement"),
        ({"placement": {"jump": 1}}, "placement: .*jump"),
        ({"placement": {"flip": "x"}}, "placement: flip: 'x'"),
        ({"placement": {"scale": 2}}, "placement: scale: 2"),
        ({"source": True}, "source: True is not a name"),
        ({"source": {"weights": "own", "jump": 1}}, "source: .*jump"),
        ({"protect_labels": "no"}, "protect_labels: 'no'"),
        ({"recipe": 5}, "recipe: 5 is not a name, a TOML file or a Recipe"),
        ({"recipe": 5, "on_miss": "compute"}, "recipe: 5 is not a name, a TOML file or a Recipe"),
    ],
)
def test_an_argument_that_cannot_work_is_named(cache, arguments, message):
    with pytest.raises(InputError, match=message):
        ReplaceBackground(cache, **arguments)


def test_a_store_that_is_not_there_or_empty_is_said_at_once(tmp_path):
    with pytest.raises(StoreError, match="is not a store"):
        ReplaceBackground(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="holds no recipe yet"):
        ReplaceBackground(Cache(tmp_path / "empty"))


def test_the_latest_recipe_serves_unless_another_is_named(tmp_path, image):
    cache = Cache(tmp_path / "c", codec="png")
    pixels = {}
    for strength in (5, 90):
        recipe = simple.recipe(generate={"strength": strength})
        prewarm([image], cache, recipe, workers=0, progress=False)
        pixels[strength] = np.asarray(ReplaceBackground(cache, p=1, recipe=recipe)(image))
    assert (pixels[5] != pixels[90]).any()
    np.testing.assert_array_equal(np.asarray(ReplaceBackground(cache, p=1)(image)), pixels[90])
    with pytest.raises(StoreError, match="not filled with the recipe 'sd15'; it holds: simple"):
        ReplaceBackground(cache, recipe="sd15")


def test_a_recipe_may_be_a_name_a_file_a_fingerprint_or_a_recipe(cache, tmp_path):
    recipe = simple.recipe()
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    latest = cache.recipes()[-1]
    for one in (None, "simple", latest.background, path, str(path), recipe):
        assert ReplaceBackground(cache, recipe=one).sampler.record == latest


def test_its_repr_is_like_torchvisions(cache):
    text = repr(ReplaceBackground(cache, p=0.25, blend="feather"))
    assert text.startswith("ReplaceBackground(Cache('")
    assert "recipe=simple, p=0.25, source=pool, on_miss=keep, blend=feather, harmonize=0.0, protect_labels=True" in text
    text = repr(ReplaceBackground(cache, p=Linear(0, 1, 9), source={"own": 1}, placement=Placement(flip=0.5)))
    assert "p=Linear(start=0, end=1, epochs=9), source={'own': 1}, on_miss=keep, placement=Placement(scale=(" in text


def test_it_works_inside_a_compose_and_survives_pickling(cache, image):
    pipeline = pickle.loads(pickle.dumps(v2.Compose([ReplaceBackground(cache, p=1), v2.RandomResizedCrop(32)])))
    assert pipeline(image).size == (32, 32)
    assert pipeline.transforms[0].counts["hits"] == 1


def test_the_number_of_draws_is_the_same_whatever_is_asked_and_found(cache, image):
    draws = set()
    other = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    for source in ("own", "pool:other", {"plates:pool": 1, "own": 3}):
        for placement in (None, Placement(scale=(0.5, 2), translate="uniform", flip=0.5, rotate=30)):
            for one in (image, other):
                torch.manual_seed(3)
                ReplaceBackground(cache, p=0.5, source=source, placement=placement)(one)
                draws.add(torch.rand(1).item())
    assert len(draws) == 1


def test_a_lost_background_is_taken_from_the_pool_where_asked(filled, image, tmp_path):
    paths = filled[1]
    holes = Cache(tmp_path / "c")
    prewarm(paths[:3], holes, simple.recipe(), workers=0, progress=False)
    fingerprint = holes.recipes()[-1].background
    holes.delete(f"background/{fingerprint}/{image_key(image)}/0")
    assert ReplaceBackground(holes, p=1, source="own")(image) is image
    replace = ReplaceBackground(holes, p=1, on_miss="pool", source="own")
    assert replace(image) is not image
    stranger = PIL.Image.new("RGB", (9, 9), (1, 2, 3))
    assert replace(stranger) is stranger
    assert counted(replace) == {"hits": 1, "misses": 1}
