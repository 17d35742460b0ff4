"""The albumentations transform: the same pixels as torchvision's, its targets, serialization, workers.

`test_all_of_this_holds_under_albumentationsx` runs this file again with AlbumentationsX in place of albumentations.
"""

import inspect
import json
import os
import pickle
import pydoc
import subprocess
import sys
from pathlib import Path

import albumentations as A  # noqa: N812  # its own documentation's name for it
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

import augment.torchvision
from augment import Cache, prewarm
from augment.albumentations import ReplaceBackground
from augment.errors import InputError, MissError
from augment.keys import image_key
from augment.sampling.placement import Placement
from augment.sampling.sampler import DRAWS
from augment.sampling.schedules import Cosine, Linear
from augment.sampling.sources import Source
from augment.testing.pictures import scene, write_folder
from tests import simple

EVERYTHING = {"scale": (0.5, 1.2), "translate": "uniform", "flip": 0.5, "rotate": 30}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with three variants of eight scenes, and the scenes' paths."""
    folder = tmp_path_factory.mktemp("filled")
    paths = write_folder(folder / "images", 8)
    prewarm(folder / "images", folder / "cache", simple.recipe(), variants=3, workers=0, progress=False)
    return Cache(folder / "cache"), paths


@pytest.fixture
def cache(filled):
    return filled[0]


@pytest.fixture
def image(filled):
    return read(filled[1][0])


def read(path):
    return np.array(PIL.Image.open(path).convert("RGB"))


def mask_of(path):
    return scene(int(path.stem))[1] > 127


def box_of(mask):
    y, x = np.nonzero(mask)
    return [float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)]


def composed(*transforms, **settings):
    return A.Compose(
        transforms,
        bbox_params=A.BboxParams("pascal_voc", label_fields=["classes"]),
        keypoint_params=A.KeypointParams("xy", remove_invisible=False),
        **settings,
    )


def counted(replace):
    return {name: count for name, count in replace.counts.items() if count}


def test_both_faces_give_the_same_pixels_and_labels_for_the_same_choice(filled, monkeypatch):
    cache, paths = filled
    rng = np.random.default_rng(0)
    settings = {
        "p": 1,
        "source": Source({"own": 2, "pool:same": 1, "plates:pool:other": 1}, flip=0.5),
        "placement": Placement(**EVERYTHING),
        "harmonize": 0.3,
    }
    ours, theirs = ReplaceBackground(cache, **settings), augment.torchvision.ReplaceBackground(cache, **settings)
    pipeline = composed(ours)
    moved = 0
    for number in range(30):
        uniforms = rng.random(DRAWS).tolist()
        monkeypatch.setattr("augment.albumentations._draw", lambda _, u=uniforms: {"draws": u})
        monkeypatch.setattr(torch, "rand", lambda *_, u=uniforms, **__: torch.tensor([0.0, *u], dtype=torch.float64))
        path = paths[number % 8]
        image, mask = read(path), mask_of(path)
        box, point = box_of(mask), [v.mean() for v in np.nonzero(mask)][::-1]
        one = pipeline(
            image=image, mask=mask.astype(np.uint8), bboxes=[box], classes=[1], keypoints=[(point[0], point[1])]
        )
        pixels, new_mask, new_box, new_point = theirs(
            PIL.Image.fromarray(image),
            tv_tensors.Mask(torch.from_numpy(mask)),
            tv_tensors.BoundingBoxes(torch.tensor([box]), format="XYXY", canvas_size=mask.shape),
            tv_tensors.KeyPoints(torch.tensor([point], dtype=torch.float64), canvas_size=mask.shape),
        )
        np.testing.assert_array_equal(one["image"], np.asarray(pixels))
        np.testing.assert_array_equal(one["mask"] > 0, new_mask.numpy())
        np.testing.assert_allclose(one["bboxes"], new_box.numpy(), atol=1e-3)
        np.testing.assert_allclose(one["keypoints"], new_point.numpy(), atol=1e-3)
        moved += not np.array_equal(one["mask"] > 0, mask)
    assert moved == 30
    assert ours.counts == theirs.counts
    assert counted(ours) == {"hits": 30}


FORMS = {
    "grey": lambda image: image[..., 1].copy(),
    "one channel": lambda image: image[..., 1:2].copy(),
    "alpha": lambda image: np.dstack([image, image[..., 0]]),
    "float": lambda image: (image / np.float32(255)).astype(np.float32),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_comes_back_in_its_own_form(image, filled, tmp_path, form):
    given = FORMS[form](image)
    # No red in a grey image: its own mask says where the object is.
    recipe, mask = simple.recipe().changed({"remove.backend": "masks"}), mask_of(filled[1][0])
    prewarm([{"image": given, "mask": mask}], tmp_path / "c", recipe, workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1)
    result = A.Compose([replace])(image=given)["image"]
    assert (result.dtype, result.shape) == (given.dtype, given.shape)
    assert counted(replace) == {"hits": 1}
    np.testing.assert_array_equal(result[mask], given[mask])
    assert (result != given)[~mask].any()
    if form == "alpha":
        np.testing.assert_array_equal(result[..., 3], given[..., 3])


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_what_cannot_be_is_refused_at_every_call_and_not_with_probability_p(cache, image, p):
    replace = ReplaceBackground(cache, p=p)
    for _ in range(12):
        with pytest.raises(InputError, match="int32"):
            replace(image=image.astype(np.int32))
        with pytest.raises(InputError, match="uint16"):
            replace(image=image, images=image[None].astype(np.uint16))
        with pytest.raises(InputError, match=r"\(H, W, 1 | 3 | 4\); got \(96, 112, 2\)"):
            replace(image=image[..., :2])
        if p:
            with pytest.raises(InputError, match="int32"):
                A.Compose([A.NoOp(), replace])(image=image.astype(np.int32))


def test_the_arguments_of_both_faces_are_the_same_and_visible():
    theirs = inspect.signature(augment.torchvision.ReplaceBackground)
    assert inspect.signature(ReplaceBackground) == theirs
    assert inspect.signature(augment.torchvision.ReplaceBackgroundBatch) == theirs
    defaults = {name: parameter.default for name, parameter in theirs.parameters.items() if name != "store"}
    assert defaults == {
        "p": 0.5,
        "source": "pool",
        "on_miss": "keep",
        "placement": None,
        "blend": "alpha",
        "harmonize": 0.0,
        "protect_labels": True,
        "recipe": None,
        "report": False,
        "views": 1,
    }
    for name in theirs.parameters:
        assert f" {name}: " in pydoc.render_doc(ReplaceBackground, renderer=pydoc.plaintext)


def test_further_images_and_targets_are_looked_up_one_by_one(filled):
    cache, paths = filled
    images = [read(path) for path in paths[:3]]
    replace = ReplaceBackground(cache, p=1)
    result = A.Compose([replace], additional_targets={"second": "image"})(
        image=images[0], second=images[1], images=np.stack(images)
    )
    assert counted(replace) == {"hits": 5}
    np.testing.assert_array_equal(result["images"][0], result["image"])
    np.testing.assert_array_equal(result["images"][1], result["second"])
    assert all((one != other).any() for one, other in zip(result["images"], images, strict=True))


def test_every_form_of_mask_moves_and_keeps_its_form(filled):
    cache, paths = filled
    image, mask = read(paths[0]), mask_of(paths[0]).astype(np.uint8)
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform", flip=0.5))
    pipeline = A.Compose([replace], additional_targets={"other": "mask"})
    result = pipeline(image=image, mask=mask * 5, masks=[mask, mask], other=np.dstack([mask, mask * 2]))
    assert counted(replace) == {"hits": 1}
    assert result["mask"].dtype == np.uint8
    assert set(np.unique(result["mask"])) == {0, 5}
    solid = result["mask"] > 0
    assert solid.sum() == mask.sum()
    assert (solid != mask.astype(bool)).any()
    assert isinstance(result["masks"], list)
    for one in (*result["masks"], result["other"][..., 0], result["other"][..., 1] // 2):
        np.testing.assert_array_equal(one > 0, solid)
    object_, background = result["image"][solid].mean(0), result["image"][~solid].mean(0)
    assert object_[0] - object_[1] > 90 > background[0] - background[1] + 60


def test_the_angle_and_the_size_of_a_keypoint_follow_the_object(filled, monkeypatch):
    cache, paths = filled
    mask = mask_of(paths[0])
    y, x = (values.mean() for values in np.nonzero(mask))
    replace = ReplaceBackground(cache, p=1, placement=Placement(scale=(0.5, 0.5), flip=1.0))
    params = A.KeypointParams("xyas", remove_invisible=False)
    result = A.Compose([replace], keypoint_params=params)(image=read(paths[0]), keypoints=[(x, y, 30.0, 8.0)])
    np.testing.assert_allclose(result["keypoints"][0][2:], (150, 4), atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"mask": np.ones((96, 112), np.uint8)}, "mask"),
        ({"bboxes": [(1, 1, 20, 20)], "classes": [0]}, "box"),
        ({"keypoints": [(3, 3)]}, "keypoint"),
    ],
)
def test_labels_that_the_matte_does_not_hold_keep_the_sample_as_it_is(cache, image, labels, reason):
    replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
    result = composed(replace)(image=image, **{"bboxes": [], "classes": [], "keypoints": []} | labels)
    np.testing.assert_array_equal(result["image"], image)
    assert counted(replace) == {f"protected: {reason}": 1}
    for name, value in labels.items():
        np.testing.assert_allclose(result[name], value, atol=1e-5)  # albumentations itself rounds boxes


def test_a_miss_is_kept_or_raised(cache):
    other = np.full((9, 9, 3), 7, np.uint8)
    replace = ReplaceBackground(cache, p=1)
    np.testing.assert_array_equal(A.Compose([replace])(image=other)["image"], other)
    assert counted(replace) == {"misses": 1}
    with pytest.raises(MissError):
        ReplaceBackground(cache, p=1, on_miss="raise")(image=other)


def test_a_sample_may_carry_its_key_or_path(filled, image):
    cache, paths = filled
    replace = ReplaceBackground(cache, p=1)
    pipeline = A.Compose([A.Resize(48, 56), replace])
    for key in (image_key(image), str(paths[0])):
        result = pipeline(image=image, key=key)
        assert result["image"].shape == (48, 56, 3)
        assert result["key"] == key
    assert counted(replace) == {"hits": 2}
    pipeline(image=image)
    assert counted(replace) == {"hits": 2, "misses": 1}


def test_p_is_the_share_that_is_replaced_and_follows_its_schedule(cache, image):
    replace = ReplaceBackground(cache, p=Linear(0.0, 0.6, 3))
    pipeline = A.Compose([replace])
    for epoch, share in enumerate((0, 0.3, 0.6)):
        before = replace.counts["hits"]
        replace.set_epoch(epoch)
        for _ in range(300):
            pipeline(image=image)
        assert abs((replace.counts["hits"] - before) / 300 - share) < 0.1


# --- Serialization ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"p": Cosine(0.1, 0.9, 7), "placement": Placement(**EVERYTHING), "source": {"own": 1, "plates:pool": 2}},
        {"source": Source("pool:other", 0.5, 0.5), "blend": "poisson", "harmonize": 0.5, "protect_labels": False},
        {"recipe": "simple", "on_miss": "compute"},
        {"blend": {"alpha": 1, "poisson": 0.5}},
    ],
)
def test_a_pipeline_survives_dict_json_yaml_and_pickle(cache, tmp_path, settings):
    if settings.get("recipe") == "simple":
        settings = settings | {"recipe": simple.recipe()}
    pipeline = A.Compose([ReplaceBackground(cache, **settings)])
    plain = A.to_dict(pipeline)
    again = [A.from_dict(json.loads(json.dumps(plain))), pickle.loads(pickle.dumps(pipeline))]
    for form in ("json", "yaml"):
        A.save(pipeline, tmp_path / f"pipeline.{form}", data_format=form)
        again.append(A.load(tmp_path / f"pipeline.{form}", data_format=form))
    assert all(A.to_dict(one) == plain for one in again)
    assert all(str(cache.directory) in repr(one) for one in again)


def test_any_other_function_cannot_be_serialized_and_says_so(cache):
    with pytest.raises(InputError, match="augment.sampling.schedules: linear, cosine"):
        A.to_dict(ReplaceBackground(cache, p=lambda epoch: 0.5))


def test_what_was_recorded_is_replayed(filled):
    cache, paths = filled
    image, mask = read(paths[0]), mask_of(paths[0]).astype(np.uint8)
    recorded = A.ReplayCompose([ReplaceBackground(cache, p=0.5, placement=Placement(**EVERYTHING), source="pool")])
    changed = 0
    for _ in range(12):
        first = recorded(image=image, mask=mask)
        second = A.ReplayCompose.replay(first["replay"], image=image, mask=mask)
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["mask"], second["mask"])
        changed += (first["image"] != image).any()
    assert 0 < changed < 12


def test_the_same_seed_gives_the_same_sequence(cache, image):
    sequences = []
    for seed in (3, 3, 4):
        pipeline = A.Compose([ReplaceBackground(cache, p=0.5)], seed=seed)
        sequences.append([pipeline(image=image)["image"].tobytes() for _ in range(12)])
    assert sequences[0] == sequences[1] != sequences[2]


# --- Workers ----------------------------------------------------------------------------------------------------------


class Scenes(Dataset):
    """One and the same scene again and again."""

    def __init__(self, path, transform, count):
        self.image, self.transform, self.count = read(path), transform, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.from_numpy(self.transform(image=self.image)["image"])


@pytest.mark.parametrize(
    ("method", "persistent", "seed"),
    [("fork", False, None), ("fork", True, None), ("fork", False, 137), ("fork", True, 137), ("spawn", True, 137)],
)
def test_workers_and_epochs_differ_and_the_same_seed_repeats(filled, method, persistent, seed):
    cache, paths = filled
    runs = []
    for _ in range(2 if method == "fork" else 1):
        replace = ReplaceBackground(cache, p=1, placement=Placement(translate="uniform"))
        pipeline = A.Compose([replace], seed=seed)
        torch.manual_seed(5)
        loader = DataLoader(
            Scenes(paths[0], pipeline, 8),
            1,
            num_workers=2,
            multiprocessing_context=method,
            persistent_workers=persistent,
        )
        runs.append([[batch.numpy().tobytes() for batch in loader] for _ in range(2)])
        assert counted(replace) == {"hits": 16}
    flat = [one for epoch in runs[0] for one in epoch]
    assert len(set(flat)) == len(flat)  # 16 places drawn, no two alike
    if len(runs) == 2 and (seed is not None or not hasattr(A.DualTransform, "sample_parameters")):
        assert runs[0] == runs[1]


def test_all_of_this_holds_under_albumentationsx(albumentationsx):
    """AlbumentationsX cannot be installed beside albumentations, so another process finds it first."""
    code = "import albumentations; assert hasattr(albumentations.DualTransform, 'sample_parameters')"
    environment = os.environ | {"PYTHONPATH": f"{albumentationsx}", "NO_ALBUMENTATIONS_UPDATE": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "not albumentationsx and not spawn"],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
