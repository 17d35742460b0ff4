"""ControlNets through the real diffusers classes: what they follow, their effect, and those that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment.artifacts import Image, Matte, Prompt
from augment.errors import UnavailableError
from augment.models.diffusers import Runtime
from augment.models.diffusion_control import ControlNet
from augment.recipe import Recipe
from augment.stages.generate.around import Around
from augment.stages.generate.diffusers import Diffusers
from augment.stages.generate.img2img import ImageToImage
from augment.stages.inpaint.diffusers import Diffusers as Inpainter
from augment.stages.inpaint.opencv import Telea
from augment.testing.pictures import scene
from augment.testing.tiny_diffusion import (
    tiny_controlnet,
    tiny_flux,
    tiny_inpaint,
    tiny_sdxl,
    tiny_stable_diffusion,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CPU = Runtime(device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion in sd, its inpainting model in inpaint, and a ControlNet for both in net."""
    folder = tmp_path_factory.mktemp("control")
    tiny_stable_diffusion(folder / "sd")
    tiny_inpaint(folder / "inpaint")
    tiny_controlnet(folder / "net", folder / "sd")
    return folder


def draw(cls: Any, model: Path, controlnet: ControlNet | None, **settings: Any) -> Image:
    image, alpha = scene(0)[:2]
    stage = cls(model=str(model), steps=2, runtime=CPU, controlnet=controlnet, **settings)
    stage.check()
    given: dict[str, Any] = {"images": [image] * 2, "mattes": [Matte.from_full(alpha)] * 2}
    if cls is not Inpainter:
        given |= {"prompts": [Prompt("a"), Prompt("b")], "plates": [image] * 2, "seeds": [1, 2]}
    first, second = stage(**given)
    assert isinstance(first, np.ndarray), first
    assert isinstance(second, np.ndarray), second
    assert first.shape == image.shape
    return first


@pytest.mark.parametrize(
    ("cls", "model", "settings"),
    [
        (Diffusers, "sd", {}),
        (ImageToImage, "sd", {}),
        (Around, "inpaint", {"max_growth": 1, "inpainter": Telea()}),
        (Inpainter, "inpaint", {}),
    ],
)
def test_a_controlnet_changes_what_is_drawn_by_its_weight(
    folder: Path, cls: Any, model: str, settings: dict[str, Any]
) -> None:
    plain = draw(cls, folder / model, None, **settings)
    net = str(folder / "net")
    np.testing.assert_array_equal(draw(cls, folder / model, ControlNet(net, weight=0.0), **settings), plain)
    assert np.abs(draw(cls, folder / model, ControlNet(net), **settings).astype(int) - plain).mean() > 1


def test_the_edges_are_the_pictures_at_the_size_that_is_drawn() -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 64:] = 255
    for known, name in (({"image": 0}, "image"), ({"image": 0, "control_image": 0}, "control_image")):
        given = ControlNet("net", weight=0.5).arguments([picture], (32, 64), known)
        assert given["controlnet_conditioning_scale"] == 0.5
        edges = given[name][0].numpy()
        assert edges.shape == (3, 32, 64)
        assert set(np.flatnonzero(edges[0].any(axis=0))) <= {30, 31, 32, 33}
        assert edges.any()
    (plate,) = ControlNet("net", "plate").arguments([picture], (64, 128), {})["image"].numpy()
    np.testing.assert_array_equal(plate, picture.transpose(2, 0, 1) / np.float32(255))


def test_the_objects_own_edges_do_not_lead_what_paints_it_out(folder: Path) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    image[16:48, 16:48] = 255
    mask = np.zeros((64, 64), np.uint8)
    mask[12:52, 12:52] = 255
    stage = Inpainter(model=str(folder / "inpaint"), controlnet=ControlNet(str(folder / "net")))
    (followed,) = stage._followed([image], [mask])
    assert not ControlNet("net").arguments([followed], (64, 64), {})["image"].any()
    assert ControlNet("net").arguments([image], (64, 64), {})["image"].any()


def problem(stage: Diffusers) -> str:
    with pytest.raises(UnavailableError) as caught:
        stage.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_said_before_the_work(folder: Path, tmp_path: Path) -> None:
    def stage(model: Path, net: Path) -> Diffusers:
        return Diffusers(str(model), steps=1, runtime=CPU, controlnet=ControlNet(str(net)))

    assert "there is no such folder" in problem(stage(folder / "sd", tmp_path / "gone"))
    sdxl = tiny_sdxl(tmp_path / "sdxl")
    words = "is a ControlNet for another base model (cross_attention_dim is 32, and 64 in "
    assert words in problem(stage(sdxl, folder / "net"))
    said = problem(stage(folder / "sd", tiny_controlnet(tmp_path / "xl-net", sdxl)))
    assert "(cross_attention_dim is 64, and 32 in " in said
    assert said.endswith(f"generate.controlnet: take one that was trained for {folder / 'sd'}'s base")
    assert "only models with a UNet2DConditionModel" in problem(stage(tiny_flux(tmp_path / "flux"), folder / "net"))
    assert "is a UNet2DConditionModel, and not a ControlNetModel" in problem(
        stage(folder / "sd", folder / "sd" / "unet")
    )
    torn = shutil.copytree(folder / "net", tmp_path / "torn")
    (torn / "diffusion_pytorch_model.safetensors").unlink()
    assert "it has no *.safetensors" in problem(stage(folder / "sd", torn))
    # A model that is downloaded only at first use is looked at then.
    image = scene(0)[0]
    with pytest.raises(UnavailableError, match="for another base model"):
        stage(sdxl, folder / "net")(prompts=[Prompt("a")], plates=[image], seeds=[1])


def test_half_precision_files_are_found_and_an_sdxl_follows_its_own(folder: Path, tmp_path: Path) -> None:
    half = shutil.copytree(folder / "net", tmp_path / "half")
    (half / "diffusion_pytorch_model.safetensors").rename(half / "diffusion_pytorch_model.fp16.safetensors")
    plain = draw(Diffusers, folder / "sd", ControlNet(str(folder / "net")))
    np.testing.assert_array_equal(draw(Diffusers, folder / "sd", ControlNet(str(half))), plain)
    sdxl = tiny_sdxl(tmp_path / "sdxl")
    net = tiny_controlnet(tmp_path / "xl-net", sdxl)
    assert np.abs(draw(Diffusers, sdxl, ControlNet(str(net))).astype(int) - draw(Diffusers, sdxl, None)).mean() > 1


def test_a_recipe_names_it_in_a_table_and_others_keep_their_fingerprints(folder: Path) -> None:
    plain = Recipe.load("sd15")
    recipe = plain.changed({"generate.controlnet.model": "me/canny", "generate.controlnet.control": "plate"})
    assert recipe.generate.controlnet == ControlNet("me/canny", "plate")
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.fingerprints()["generate"] != plain.fingerprints()["generate"]
    assert "controlnet" not in json.dumps(plain.to_dict())
