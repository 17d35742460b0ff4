"""What an image carries beside its colors goes with them: alpha moves with its object, and metadata stays."""

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from PIL.ImageOps import exif_transpose
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

import augment.albumentations
from augment import prewarm
from augment.sampling.placement import Placement
from augment.testing.pictures import scene
from augment.torchvision import ReplaceBackground, ReplaceBackgroundBatch
from tests import simple
from tests.filled import counted

IMAGE, MATTE = scene(0)
EVERYWHERE = {
    "moved": Placement(translate="uniform"),
    "smaller": Placement(scale=(0.5, 0.5), translate="uniform"),
    "turned": Placement(scale=(0.6, 0.6), translate="uniform", rotate=40, flip=0.5),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alpha")
    grey = PIL.Image.fromarray(IMAGE).convert("L")
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    samples = [(image, tv_tensors.Mask(MATTE)) for image in (PIL.Image.fromarray(IMAGE), grey)]
    prewarm(samples, folder, recipe, workers=0, progress=False)
    return folder


def with_alpha(mode, alpha):
    image = PIL.Image.fromarray(IMAGE).convert(mode[:-1])
    image.putalpha(PIL.Image.fromarray(alpha))
    return image


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


FORMS = {
    "PIL": lambda image: image,
    "uint8": lambda image: tv_tensors.Image(F.pil_to_tensor(image)),
    "float32": lambda image: F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True),
    "float16": lambda image: F.to_dtype(F.pil_to_tensor(image), torch.float16, scale=True),
    "float64": lambda image: F.to_dtype(F.pil_to_tensor(image), torch.float64, scale=True),
}


def channels(result):
    if isinstance(result, PIL.Image.Image):
        return np.asarray(result)
    tensor = torch.as_tensor(result)
    tensor = tensor.float() if tensor.dtype == torch.float16 else tensor  # which rounds 255.999 up to 256
    return F.to_dtype(tensor, torch.uint8, scale=True).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("placement", EVERYWHERE)
@pytest.mark.parametrize("form", FORMS)
def test_alpha_moves_with_the_object(cache, form, placement):
    given = FORMS[form](with_alpha("RGBA", MATTE))
    replace = ReplaceBackground(cache, p=1, placement=EVERYWHERE[placement])
    for seed in range(5):
        torch.manual_seed(seed)
        result, moved = replace(given, tv_tensors.Mask(torch.from_numpy(MATTE > 127)))
        assert type(result) is type(given) or form == "PIL"
        opaque = channels(result)[..., 3] > 127
        assert overlap(opaque, moved.numpy()) > 0.93
        assert overlap(opaque, MATTE > 127) < 0.9
    assert counted(replace) == {"hits": 5}


def test_alpha_of_gray_images_moves_too(cache):
    given = with_alpha("LA", MATTE)
    replace = ReplaceBackground(cache, p=1, placement=EVERYWHERE["moved"])
    result, moved = replace(given, tv_tensors.Mask(torch.from_numpy(MATTE > 127)))
    assert result.mode == "LA"
    assert overlap(np.asarray(result)[..., 1] > 127, moved.numpy()) > 0.99


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("placement", EVERYWHERE)
def test_alpha_moves_under_albumentations(cache, dtype, placement):
    given = np.dstack([IMAGE, MATTE])
    given = given if dtype == np.uint8 else given / np.float32(255)
    replace = augment.albumentations.ReplaceBackground(cache, p=1, placement=EVERYWHERE[placement])
    result = A.Compose([replace], seed=1)(image=given, mask=(MATTE > 127).astype(np.uint8))
    assert result["image"].dtype == dtype
    assert overlap(result["image"][..., 3] > (127 if dtype == np.uint8 else 0.5), result["mask"] > 0) > 0.93
    assert counted(replace) == {"hits": 1}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_is_the_same_everywhere_stays_and_forbids_nothing(cache, mode):
    replace = ReplaceBackground(cache, p=1, placement=EVERYWHERE["moved"])
    result = replace(with_alpha(mode, np.full(MATTE.shape, 77, np.uint8)))
    assert (np.asarray(result)[..., -1] == 77).all()
    assert counted(replace) == {"hits": 1}


@pytest.mark.parametrize("kind", ["a hole elsewhere", "depth"])
def test_a_fourth_channel_that_is_not_the_objects_keeps_it_in_place(cache, kind):
    alpha = np.full(MATTE.shape, 255, np.uint8)
    alpha[:20, :20] = 0
    if kind == "depth":
        alpha = np.linspace(0, 255, MATTE.size).reshape(MATTE.shape).astype(np.uint8)
    replace = ReplaceBackground(cache, p=1, placement=EVERYWHERE["moved"])
    result = replace(with_alpha("RGBA", alpha))
    np.testing.assert_array_equal(np.asarray(result)[..., 3], alpha)
    assert counted(replace) == {"hits": 1, "unmoved": 1}


def test_alpha_of_an_object_at_the_edge_stays_opaque_there(tmp_path):
    matte = np.zeros((96, 112), np.uint8)
    cv2.rectangle(matte, (0, 30), (40, 70), 255, -1)
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    prewarm([(PIL.Image.fromarray(IMAGE), tv_tensors.Mask(matte))], tmp_path / "c", recipe, workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=1, placement=Placement(scale=(0.7, 0.7), translate="uniform"))
    alpha = np.asarray(replace(with_alpha("RGBA", matte)))[..., 3]
    assert alpha[:, 0].max() == 255
    assert counted(replace) == {"hits": 1}


def test_a_batch_has_no_alpha_to_leave_behind(cache):
    batch = ReplaceBackgroundBatch(cache, p=1, placement=EVERYWHERE["moved"])
    layers = batch.collate([with_alpha("RGBA", MATTE)])
    assert batch(layers).shape == (1, 3, *MATTE.shape)


# --- Metadata ---------------------------------------------------------------------------------------------------------


def turned(folder, suffix, **options):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(scene(3)[0]).save(folder / f"a{suffix}", exif=exif, **options)
    return folder / f"a{suffix}"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("convert", [True, False])
def test_exif_is_kept_by_hits_as_by_misses(tmp_path, suffix, convert):
    (tmp_path / "i").mkdir()
    path = turned(tmp_path / "i", suffix)
    prewarm(tmp_path / "i", tmp_path / "c", simple.recipe(), workers=0, progress=False)
    replace = ReplaceBackground(tmp_path / "c", p=0.5)
    pipeline = v2.Compose([replace, v2.Lambda(exif_transpose)])
    sizes = set()
    for _ in range(20):
        with PIL.Image.open(path) as file:
            sizes.add(pipeline(file.convert("RGB") if convert else file).size)
    assert 0 < replace.counts["hits"] < 20
    assert len(sizes) == 1


def test_a_profile_and_other_info_are_kept_and_not_shared(cache):
    image = PIL.Image.fromarray(IMAGE)
    image.info = {"icc_profile": b"profile", "dpi": (300, 300), "comment": "x"}
    result = ReplaceBackground(cache, p=1)(image)
    assert result is not image
    assert result.info == image.info
    assert result.info is not image.info


def test_an_orientation_that_was_set_after_reading_is_kept(cache):
    image = PIL.Image.fromarray(IMAGE)
    image.getexif()[0x0112] = 6
    assert ReplaceBackground(cache, p=1)(image).getexif()[0x0112] == 6
