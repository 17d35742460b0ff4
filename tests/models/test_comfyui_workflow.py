"""Which inputs of a ComfyUI workflow are filled in: found by its links, named by the user, or said to be uncertain."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from augment.errors import RecipeError
from augment.models.comfyui_workflow import Binding, Fields, bind, parse
from tests.comfyui_server import inpainting, node, text_to_image

GENERATE = ("prompt", "seed", "size")
INPAINT = ("image", "mask")


def bound(nodes: dict[str, Any], needs: tuple[str, ...] = GENERATE, **fields: Any) -> Binding:
    return bind(parse(json.dumps(nodes), "w.json"), Fields(**fields), needs, "generate")


def flux() -> dict[str, Any]:
    """As ComfyUI's Flux example: no KSampler, no negative prompt, the words in a node of their own."""
    return {
        "1": node("PrimitiveString", value="a bottle"),
        "2": node("CLIPTextEncode", text=["1", 0], clip=["11", 0]),
        "3": node("FluxGuidance", guidance=3.5, conditioning=["2", 0]),
        "4": node("BasicGuider", model=["12", 0], conditioning=["3", 0]),
        "5": node("RandomNoise", noise_seed=7),
        "6": node("PrimitiveInt", value=1024),
        "7": node("EmptySD3LatentImage", width=["6", 0], height=768, batch_size=1),
        "11": node("DualCLIPLoader"),
        "12": node("UNETLoader"),
        "13": node("SamplerCustomAdvanced", noise=["5", 0], guider=["4", 0], latent_image=["7", 0]),
        "14": node("SaveImage", images=["13", 0]),
    }


def test_the_default_workflow_leaves_no_doubt() -> None:
    binding = bound(text_to_image())
    assert {name: targets for name, targets in binding.targets.items() if targets} == {
        "prompt": (("6", "text"),),
        "negative": (("7", "text"),),
        "seed": (("3", "seed"),),
        "width": (("5", "width"),),
        "height": (("5", "height"),),
    }


def test_links_are_followed_through_guiders_and_nodes_that_hold_a_value() -> None:
    binding = bound(flux())
    assert binding["prompt"] == (("1", "value"),)
    assert binding["negative"] == ()
    assert binding["seed"] == (("5", "noise_seed"),)
    assert (binding["width"], binding["height"]) == ((("6", "value"),), (("7", "height"),))


def test_a_control_net_between_sampler_and_text_keeps_the_roles_apart() -> None:
    nodes = text_to_image()
    nodes["10"] = node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], image=["20", 0])
    nodes["20"] = node("LoadImage", image="pose.png")
    nodes["3"]["inputs"] |= {"positive": ["10", 0], "negative": ["10", 1]}
    binding = bound(nodes)
    assert (binding["prompt"], binding["negative"]) == ((("6", "text"),), (("7", "text"),))
    assert binding["image"] == ()  # the pose is the user's, not the plate


def test_a_negative_that_is_zeroed_or_the_same_text_is_not_filled_in() -> None:
    nodes = text_to_image()
    nodes["7"] = node("ConditioningZeroOut", conditioning=["6", 0])
    assert bound(nodes)["negative"] == ()
    nodes["3"]["inputs"]["negative"] = ["6", 0]
    assert bound(nodes)["negative"] == ()


def test_both_encoders_of_sdxl_and_both_samplers_of_a_second_pass_are_filled_in() -> None:
    nodes = text_to_image()
    nodes["6"] = node("CLIPTextEncodeSDXL", text_g="a", text_l="b", clip=["4", 1], width=1024, height=1024)
    nodes["30"] = node("LatentUpscale", samples=["3", 0], width=2048, height=2048)
    nodes["31"] = node("KSampler", **{**nodes["3"]["inputs"], "latent_image": ["30", 0], "denoise": 0.5})
    binding = bound(nodes)
    assert binding["prompt"] == (("6", "text_g"), ("6", "text_l"))
    assert binding["seed"] == (("3", "seed"), ("31", "seed"))
    assert binding["width"] == (("5", "width"),)


def test_the_picture_that_is_encoded_is_the_plate() -> None:
    nodes = text_to_image()
    nodes["5"] = node("VAEEncode", pixels=["21", 0], vae=["4", 2])
    nodes["21"] = node("ImageScale", image=["20", 0], width=512, height=512)
    nodes["20"] = node("LoadImage", image="example.png")
    assert bound(nodes)["image"] == (("20", "image"),)


@pytest.mark.parametrize("separate", [False, True])
def test_a_mask_is_the_pictures_alpha_or_a_file_of_its_own(separate: bool) -> None:
    binding = bound(inpainting(separate), INPAINT)
    assert binding["image"] == (("20", "image"),)
    assert (binding["mask"], binding.alpha) == ((("21", "image"),) if separate else (), not separate)


def test_a_mask_that_is_inverted_on_its_way_is_not_taken_for_certain() -> None:
    nodes = inpainting(separate=True)
    nodes["25"] = node("InvertMask", mask=["21", 0])
    with pytest.raises(
        RecipeError, match='takes the mask is not certain: set generate.fields.mask to one of: "20.image"'
    ):
        bound(nodes, INPAINT)
    assert bound(nodes, INPAINT, mask="21.image")["mask"] == (("21", "image"),)


def test_what_is_uncertain_names_the_inputs_that_could_be_meant() -> None:
    nodes = text_to_image()
    nodes["10"] = node("CLIPTextEncode", text="in the style of a master", clip=["4", 1])
    nodes["11"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["10", 0])
    nodes["3"]["inputs"]["positive"] = ["11", 0]
    words = (
        'w.json: which input takes the prompt is not certain: set generate.fields.prompt to one of: "6.text" '
        '(CLIPTextEncode), "7.text" (CLIPTextEncode), "10.text" (CLIPTextEncode)'
    )
    with pytest.raises(RecipeError, match=re.escape(words)):
        bound(nodes)
    binding = bound(nodes, prompt="6.text", negative=())
    assert (binding["prompt"], binding["negative"]) == ((("6", "text"),), ())
    del nodes["3"]
    with pytest.raises(RecipeError, match="no input of it is called seed or noise_seed; set generate.fields.seed; its"):
        bound(nodes, prompt=["6.text", "10.text"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "66.text"}, "generate.fields.prompt: w.json has no node '66'; it has: 3 (KSampler), 4 (Check"),
        (
            {"prompt": "6.txt"},
            "generate.fields.prompt: node 6 (CLIPTextEncode) of w.json has no input 'txt'; it has: te",
        ),
        ({"seed": "3"}, """generate.fields.seed: '3' is not an input: write "node.input", such as "6.text\""""),
        ({"output": "99"}, "generate.fields.output: w.json has no node '99'"),
    ],
)
def test_fields_that_do_not_exist_are_named(fields: dict[str, str], words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        bound(text_to_image(), **fields)


def test_a_batch_of_several_pictures_is_said_before_they_are_made() -> None:
    nodes = text_to_image()
    nodes["5"]["inputs"]["batch_size"] = 4
    with pytest.raises(RecipeError, match=r"node 5 \(EmptyLatentImage\): batch_size is 4"):
        bound(nodes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"nodes": [], "links": [], "version": 0.4}',
            r"saves workflows for itself: export it with File > Export \(API\)",
        ),
        ("hello", r"w.json: not JSON .*: export the workflow from ComfyUI with File > Export \(API\)"),
        ("[" * 99_999, "not JSON"),
        ("[]", "no workflow"),
        ("{}", "no workflow"),
        ('{"3": {"inputs": {}}}', "node '3' has no class_type"),
        ('{"3": 7}', "node '3' has no class_type"),
        ('{"3": {"class_type": "KSampler"}}', r"node '3' \(KSampler\) has no inputs"),
    ],
)
def test_what_is_no_workflow_for_the_api_is_said(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse(text, "w.json")


def test_a_whole_request_is_taken_and_titles_do_not_decide() -> None:
    nodes = text_to_image()
    whole = parse(json.dumps({"prompt": nodes, "client_id": "x"}), "w.json")
    nodes["3"]["_meta"]["title"] = "another"
    assert parse(json.dumps(nodes, indent=4), "w.json").text == whole.text
    nodes["3"]["inputs"]["steps"] = 21
    assert parse(json.dumps(nodes), "w.json").text != whole.text
