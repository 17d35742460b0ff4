"""Contextual enrichment: what is found is repainted as a language model says, and nothing else changes."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.models.detection as torchvision_detection
from safetensors.torch import save_file
from typer.testing import CliRunner

from augment import Cache, Recipe, prewarm
from augment.artifacts import Prompt, Rejected
from augment.chain import Chain
from augment.cli import app
from augment.errors import ItemFailed
from augment.keys import image_key
from augment.stages.base import Item
from augment.stages.enrich.chat.openai import OpenAi
from augment.stages.enrich.contextual import Contextual
from augment.stages.enrich.inpainters.diffusers import Diffusers
from augment.stages.enrich.objects import choose_objects, feathered, laid_over, region_around
from augment.stages.enrich.subprompts import negative, question, subprompts, template
from augment.stages.guard.own_class import OwnClass
from augment.testing.pictures import scene, write_folder
from augment.testing.tiny import tiny_inpaint
from augment.torchvision import ReplaceBackground
from tests import enriching, simple
from tests.enriching import CALLS, ColorInpainter, SetChat, SetDetector, detection
from tests.simple import GENERATE, REFINE
from tests.webui_server import WebUiServer

ENRICH = Contextual.kind
PROMPT = Prompt("full body, city background, walking", "dog, people, text, blurry")


@pytest.fixture(autouse=True)
def _no_calls_so_far():
    enriching.forget()


def stage(**settings):
    substages = {"detector": SetDetector(), "chat": SetChat(), "inpainter": ColorInpainter()}
    return Contextual(**(substages | settings))


def enrich(stage, drafts, groups=None, seeds=None):
    """What the stage makes of drafts with the same prompt; their seeds are 7, 8, …"""
    count = len(drafts)
    return stage(
        drafts=drafts,
        prompts=[PROMPT] * count,
        groups=groups or [None] * count,
        seeds=seeds or range(7, 7 + count),
    )


def noise(seed=0, size=(96, 112)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


# The objects


def test_the_largest_objects_come_first_and_equal_labels_are_numbered():
    found = choose_objects(
        [
            detection("cup", (0, 0, 9, 9)),
            detection("dog", (0, 0, 50, 50)),
            detection("person", (0, 0, 20, 20)),
            detection("person", (40, 0, 80, 40)),
            detection("car", (0, 0, 3, 3)),
        ],
        most=3,
        min_area=0.005,
        leave=("dog",),
    )
    assert [(one.name, round(one.area * 96 * 112)) for one in found] == [
        ("person 1", 1600),
        ("person 2", 400),
        ("cup", 81),
    ]


def test_a_feathered_mask_rises_inside_the_mask_and_is_nothing_outside():
    mask = np.zeros((60, 80), bool)
    mask[10:50, 0:40] = True
    alpha = feathered(mask, 6)
    assert not alpha[~mask].any()
    assert alpha[30, 20] == 255
    assert alpha[30, 0] == 255, "the image's edge is not the mask's"
    assert 0 < alpha[30, 39] < 128
    assert (np.diff(alpha[30, 20:40].astype(int)) <= 0).all()
    thin = np.zeros((60, 80), bool)
    thin[30:33, 10:70] = True
    assert feathered(thin, 20).max() == 255, "a thin object is painted, too"


@pytest.mark.parametrize(
    "box", [(0, 0, 20, 20), (90, 70, 112, 96), (0, 40, 112, 60), (50, 40, 53, 90), (0, 0, 112, 96)]
)
def test_the_part_that_is_painted_holds_the_mask_and_lies_in_the_image(box):
    mask = detection("x", box).mask
    region = region_around(mask, 0.5)
    assert 0 <= region.top < region.bottom <= 96
    assert 0 <= region.left < region.right <= 112
    assert mask[region.slices].sum() == mask.sum()
    assert region.right - region.left >= min(112, box[2] - box[0])


def test_laying_over_changes_no_byte_where_the_alpha_is_nothing():
    image, mask = noise(), detection("x", (30, 20, 70, 60)).mask
    region = region_around(mask, 0.5)
    result = laid_over(image, 255 - image[region.slices], feathered(mask, 5), region)
    np.testing.assert_array_equal(result[~mask], image[~mask])
    assert (result[mask] != image[mask]).any(axis=1).mean() > 0.9


# What the language model says

NAMES, LABELS = ["person 1", "person 2", "traffic light"], ["person", "person", "traffic light"]
RED, KITE, LAMP = "a man in a red coat", "a child with a kite", "an old lamp on a corner"
WHOLE = {"person 1": RED, "person 2": KITE, "traffic light": LAMP}
ALL = ["Person, a man in a red coat", "Person, a child with a kite", "Traffic light, an old lamp on a corner"]


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(WHOLE),
        json.dumps(WHOLE, indent=2),
        f"Sure! Here is the JSON you asked for:\n```json\n{json.dumps(WHOLE)}\n```\nI hope this helps {{ }}.",
        f"<think>maybe {{'person 1': 'wrong'}}?</think>{json.dumps(WHOLE)}",
        json.dumps({"Person_1": RED, "PERSON #2": KITE, "Traffic-Light": LAMP}),
        json.dumps({"person": [RED, KITE], "traffic lights": LAMP}),
        json.dumps({"objects": WHOLE}),
        json.dumps([{"label": name, "prompt": text} for name, text in WHOLE.items()]),
        json.dumps({name: {"prompt": text, "negative": "blur"} for name, text in WHOLE.items()}),
        "".join(f'{{"{name}": "{text}"}}\n' for name, text in WHOLE.items()),
        json.dumps(WHOLE)[:-2],  # broken off
        json.dumps(WHOLE).replace("}", ",}"),
        json.dumps(WHOLE).replace('"', "'"),
        "\n".join(f'"{name}": "{text}"' for name, text in WHOLE.items()),
    ],
)
def test_every_label_gets_its_sub_prompt_whatever_stands_around_it(answer):
    assert [text.lower() for text in subprompts(answer, NAMES, LABELS, None)] == [text.lower() for text in ALL]


def test_a_value_for_a_bare_label_serves_all_of_its_objects():
    first, second, third = subprompts(json.dumps({"person": RED}), NAMES, LABELS, None)
    assert first == second
    assert first.lower().endswith(RED)
    assert third is None


def test_one_object_that_the_model_numbered_is_found():
    assert subprompts('{"car 1": "a rusty blue car in the rain"}', ["car"], ["car"], None) == [
        "A rusty blue car in the rain"
    ]


def test_prose_is_the_sub_prompt_of_a_single_object():
    assert subprompts("A rusty blue car in the rain.", ["car"], ["car"], None) == ["A rusty blue car in the rain."]
    assert subprompts("A rusty blue car in the rain.", NAMES, LABELS, None) == [None] * 3
    assert subprompts("I'm sorry, I cannot help with that.", ["car"], ["car"], None) == [None]


@pytest.mark.parametrize(
    "answer", ["", "I cannot help with that.", "{}", "[]", "null", '{"person 1": null}', "{" * 3000]
)
def test_an_answer_without_use_gives_none(answer):
    assert subprompts(answer, NAMES, LABELS, None) == [None] * 3


def test_a_sub_prompt_that_names_the_objects_class_is_not_used():
    answer = json.dumps({"person": "a man walking two dogs on a lead"})
    assert subprompts(answer, ["person"], ["person"], "dog") == [None]
    assert subprompts(answer, ["person"], ["person"], "cat") != [None]


def test_the_question_names_every_object_and_keeps_the_class_out():
    system, user = question(NAMES, PROMPT, "dog")
    assert "with no dog in it" in system["content"]
    assert PROMPT.text in user["content"]
    assert all(f'"{name}"' in user["content"] for name in NAMES)


def test_what_is_painted_is_not_in_its_own_negative_prompt():
    assert negative("person", PROMPT) == "dog, text, blurry"
    assert negative("car", PROMPT) == PROMPT.negative
    assert template("car", PROMPT) == "car, full body, city background, walking"


# The stage


def test_each_round_repaints_what_it_finds_and_tells_which_object_got_which_sub_prompt():
    image = noise()
    (done,) = enrich(stage(depth=2, keep_steps=True), [image], ["dog"])
    assert [(step.round, step.label) for step in done.steps] == [
        (number, name) for number in (1, 2) for name in ("person 1", "car", "person 2")
    ]
    first = done.steps[0]
    assert (first.prompt.text, first.prompt.origin) == ("person, a man in a red coat", "llm")
    assert "people" not in first.prompt.negative
    assert [step.name for step in done.steps[:2]] == ["1-person-1", "1-car"]
    assert done.steps[1].prompt.text == "car, an old yellow taxi"
    np.testing.assert_array_equal(done.steps[-1].image, done.image)
    assert done.result is done.image
    assert done.notes == {"steps": [step.record() for step in done.steps]}
    assert list(done.pictures) == [step.name for step in done.steps]
    images = [image, *(step.image for step in done.steps)]
    assert all((before != after).any() for before, after in pairwise(images))
    assert json.loads(json.dumps(first.record()))["step"] == "1-person-1"
    assert CALLS == {"detector": 2, "chat": 2, "inpainter": 6}


def test_size_and_every_pixel_outside_the_masks_stay():
    image = noise()
    (done,) = enrich(stage(), [image])
    masks = np.any([one.mask for one in SetDetector()(images=[image])[0]], axis=0)
    assert done.image.shape == image.shape
    np.testing.assert_array_equal(done.image[~masks], image[~masks])
    assert (done.image[masks] != image[masks]).any(axis=1).mean() > 0.9


def test_a_background_does_not_depend_on_its_batch():
    images = [noise(seed) for seed in range(3)]
    together = enrich(stage(depth=2), images, seeds=[1, 2, 3])
    (alone,) = enrich(stage(depth=2), images[1:2], seeds=[2])
    np.testing.assert_array_equal(together[1].image, alone.image)
    assert not np.array_equal(together[1].image[12:20, 6:30], together[2].image[12:20, 6:30])


def test_where_nothing_is_found_the_draft_stays_and_nobody_is_asked():
    image = noise()
    (done,) = enrich(stage(detector=SetDetector(()), depth=2), [image])
    assert done.image is image
    assert done.steps == ()
    assert set(CALLS) == {"detector"}


def test_the_images_own_class_is_left_alone():
    (done,) = enrich(stage(detector=SetDetector(("dog", "car"))), [noise()], ["golden_retriever"])
    assert [step.label for step in done.steps] == ["car"]


def test_the_guards_class_counts_where_an_image_has_none_of_its_own(tmp_path):
    image = scene(0)[0]
    guarded = recipe().changed({"guard": OwnClass(group="car", detector=SetDetector(()))})
    chain = Chain(guarded, Cache(tmp_path, codec="png"))
    chain.complete(Item(image, image_key(image)))
    steps = chain.cache.provenance(chain.name(ENRICH, image_key(image), 0))["steps"]
    assert {step["label"] for step in steps} == {"person 1", "person 2"}


def test_without_a_usable_answer_the_label_in_the_scene_is_the_sub_prompt():
    (done,) = enrich(stage(chat=SetChat('{"car": "an old yellow taxi"}')), [noise()])
    origins = {step.label: (step.prompt.text, step.prompt.origin) for step in done.steps}
    assert origins["person 1"] == (
        "person, full body, city background, walking",
        "template (nothing usable in the answer)",
    )
    assert origins["car"][1] == "llm"


def test_a_substage_that_fails_for_an_item_fails_that_item_alone(monkeypatch):
    before = ColorInpainter.__call__

    def second_fails(self, **given):
        painted = before(self, **given)
        return [painted[0], ItemFailed("no paint"), *painted[2:]] if len(painted) == 3 else painted

    monkeypatch.setattr(ColorInpainter, "__call__", second_fails)
    results = enrich(stage(detector=SetDetector(("car",))), [noise(n) for n in range(3)])
    assert [type(result).__name__ for result in results] == ["Enriched", "ItemFailed", "Enriched"]
    (failed,) = enrich(stage(chat=SetChat("fail")), [noise()])
    assert str(failed) == "no words"


# In the chain


def recipe(**enrich):
    return simple.recipe(retries=12).changed({"enrich": enriching.SUBSTAGES | enrich})


def test_the_transform_gets_the_enriched_background(tmp_path):
    paths = write_folder(tmp_path / "images", 3)
    cache = Cache(tmp_path / "cache", codec="png")
    enriched = recipe(depth=2, keep_steps=True)
    report = prewarm(tmp_path / "images", cache, enriched, variants=2, workers=0, progress=False)
    assert (report.complete, report.stages["generate"].computed, report.stages["enrich"].computed) == (3, 6, 6)
    image = np.asarray(PIL.Image.open(paths[0]))
    chain = Chain(enriched, cache)
    draft, final = chain.artifact(GENERATE, image_key(image), 0), chain.artifact(ENRICH, image_key(image), 0)
    assert not np.array_equal(draft, final)
    for given in (None, enriched):
        composite = ReplaceBackground(cache, p=1.0, source="own", recipe=given)(PIL.Image.fromarray(image))
        corner = np.asarray(composite)[12:20, 6:20]
        assert any(
            np.array_equal(corner, chain.artifact(ENRICH, image_key(image), variant)[12:20, 6:20])
            for variant in range(2)
        )
    simple.CALLS.clear()
    assert prewarm(tmp_path / "images", cache, enriched, variants=2, workers=0, progress=False).complete == 3
    assert not simple.CALLS


def test_the_trace_and_the_steps_are_kept_with_the_background(tmp_path):
    image = scene(0)[0]
    key = image_key(image)
    cache = Cache(tmp_path, codec="png")
    chain = Chain(recipe(depth=2, keep_steps=True), cache)
    chain.complete(Item(image, key, "a.png", "ball"))
    account = cache.provenance(chain.name(ENRICH, key, 0))
    assert account["backend"] == "contextual"
    assert account["prompt"]["prompt"] == chain.artifact(REFINE, key, 0).text
    trace = [(step["round"], step["label"], step["origin"]) for step in account["steps"]]
    assert trace == [(number, label, "llm") for number in (1, 2) for label in ("person 1", "car", "person 2")]
    steps = chain.reader.steps(key, 0)
    assert [name for name, _ in steps] == [step["step"] for step in account["steps"]]
    assert all(step.shape == image.shape for _, step in steps)
    assert Chain(simple.recipe(), cache).reader.steps(key, 0) == []


def test_steps_are_not_kept_unless_asked_for_and_change_no_result(tmp_path):
    image = scene(0)[0]
    backgrounds = []
    for keep in (False, True):
        cache = Cache(tmp_path / str(keep), codec="png")
        chain = Chain(recipe(keep_steps=keep), cache)
        chain.complete(Item(image, image_key(image), "a.png", "ball"))
        backgrounds.append(bytes(cache.get(chain.name(ENRICH, image_key(image), 0))))
        assert bool(chain.reader.steps(image_key(image), 0)) == keep
    assert backgrounds[0] == backgrounds[1]


def test_enrichment_is_part_of_the_fingerprint_and_keeps_the_drafts():
    plain, enriched = simple.recipe(), recipe()
    assert enriched.fingerprints()["generate"] == plain.fingerprints()["generate"]
    before = enriched.fingerprints()["enrich"]
    assert before not in plain.fingerprints().values()
    assert recipe(depth=2).fingerprints()["enrich"] != before
    assert enriched.changed({"enrich.chat.answer": "{}"}).fingerprints()["enrich"] != before
    assert enriched.changed({"enrich.keep_steps": True, "enrich.batch_size": 1}).fingerprints()["enrich"] == before
    served = enriched.changed({"enrich.inpainter.backend": "webui"})
    elsewhere = served.changed({"enrich.inpainter.base_url": "http://elsewhere"})
    assert elsewhere.fingerprints() == served.fingerprints()
    assert Recipe.from_toml(served.to_toml()) == served


def test_the_guard_looks_at_what_the_enrichment_made(tmp_path):
    image = scene(0)[0]
    guarded = recipe().changed({"guard": OwnClass(detector=SetDetector(("cup",), half=True))})
    chain = Chain(guarded, Cache(tmp_path, codec="png"))
    outcome = chain.complete(Item(image, image_key(image), "a.png", "cup"), variants=8)
    assert not outcome.failed
    assert chain.cache.provenance(chain.name(ENRICH, image_key(image), 0))["guard"] == ["cup"]
    for variant in range(8):
        for kind in (GENERATE, ENRICH):
            assert guarded.guard(backgrounds=[chain.artifact(kind, image_key(image), variant)], groups=["cup"]) == [
                None
            ]
    tries = [chain.cache.provenance(chain.name(ENRICH, image_key(image), variant))["attempt"] for variant in range(8)]
    assert sum(tries) > 0


def test_an_enrichment_that_is_rejected_every_time_fails_and_names_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(ColorInpainter, "__call__", lambda self, *, images, **_: [Rejected("flagged")] * len(images))
    write_folder(tmp_path / "images", 1)
    report = prewarm(tmp_path / "images", tmp_path / "cache", recipe(), workers=0, progress=False)
    (failed,) = report.failures
    assert str(failed).endswith("000.png (variant 0): enrich: rejected 13 times, at last because it is flagged")
    assert "13 rejected as flagged" in str(report)


def test_every_substage_is_freed_with_its_stage(tmp_path, monkeypatch):
    unloaded = []
    for substage in (SetDetector, SetChat, ColorInpainter):
        monkeypatch.setattr(substage, "unload", lambda self: unloaded.append(self.backend))
    write_folder(tmp_path / "images", 1)
    prewarm(tmp_path / "images", tmp_path / "cache", recipe(), workers=0, progress=False)
    assert unloaded == ["fixed-detector", "fixed-chat", "color-inpainter"]


# Real parts


@pytest.fixture(scope="module")
def inpaint_model(tmp_path_factory):
    return tiny_inpaint(tmp_path_factory.mktemp("inpaint"))


@pytest.fixture
def painter(inpaint_model):
    return Diffusers(model=str(inpaint_model), steps=2, size=64)


@pytest.mark.slow
def test_a_real_pipeline_repaints_the_mask_and_the_bytes_outside_stay(painter):
    image = noise()
    painter.check()
    (done,) = enrich(stage(inpainter=painter), [image])
    masks = np.any([one.mask for one in SetDetector()(images=[image])[0]], axis=0)
    np.testing.assert_array_equal(done.image[~masks], image[~masks])
    assert (done.image[masks] != image[masks]).any(axis=1).mean() > 0.8


def test_a_real_pipeline_paints_the_same_in_any_batch(painter):
    images = [noise(n, (64, 64)) for n in range(2)] + [noise(2, (64, 96))]
    masks = [np.full(image.shape[:2], 255, np.uint8) for image in images]
    together = painter(images=images, masks=masks, prompts=[PROMPT] * 3, seeds=[1, 2, 3])
    (alone,) = painter(images=images[1:2], masks=masks[1:2], prompts=[PROMPT], seeds=[2])
    assert [image.shape for image in together] == [image.shape for image in images]
    assert np.abs(together[1].astype(int) - alone).max() <= 1
    painter.unload()
    assert set(vars(painter)) == set(painter.settings())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained Mask R-CNN that takes every box for a car."""
    network = partial(
        torchvision_detection.maskrcnn_resnet50_fpn_v2,
        min_size=96,
        max_size=160,
        rpn_post_nms_top_n_test=20,
        box_detections_per_img=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = network(weights=None, weights_backbone=None, num_classes=3).state_dict()
    state["roi_heads.box_predictor.cls_score.bias"][:] = torch.tensor([-4.0, 0.0, 4.0])  # background, person, car
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"][:] = 5.0
    path = tmp_path_factory.mktemp("mask_rcnn") / "cars.safetensors"
    save_file(state, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision_detection, "maskrcnn_resnet50_fpn_v2", network)
        yield path


@pytest.fixture
def server():
    with WebUiServer() as server:
        yield server


def test_a_served_language_model_is_asked_for_json(server):
    server.answer = 'Of course: {"car": "a rusty blue car in the rain"}'
    chat = OpenAi(model="words", base_url=f"{server.url}/v1", retries=0)
    chat.check()
    (done,) = enrich(stage(detector=SetDetector(("car",)), chat=chat), [noise()])
    assert done.steps[0].prompt.text == "A rusty blue car in the rain"
    server.stop()
    (failed,) = enrich(stage(chat=chat), [noise()])
    assert isinstance(failed, ItemFailed)
    assert "no server answers there" in str(failed)


def test_the_webui_recipe_is_the_second_prototype():
    preset = Recipe.load("webui")
    assert {kind: one.backend for kind, one in preset.all_stages.items()}.items() >= {
        "generate": "webui",
        "enrich.detector": "mask-rcnn",
        "enrich.chat": "openai",
        "enrich.inpainter": "webui",
    }.items()
    assert preset.enrich.depth == 1


@pytest.fixture
def webui(server, checkpoint, smollm2):
    """Runs a command with the recipe webui, its models on this machine small ones."""
    pytest.importorskip("gpt4all")
    settings = {
        "generate.base_url": server.url,
        "enrich.max_objects": 2,
        "enrich.min_area": 0.0,
        "enrich.detector.model": checkpoint,
        "enrich.detector.names": '["person", "car"]',
        "enrich.chat.backend": "gpt4all",
        "enrich.chat.model": smollm2,
        "enrich.chat.max_tokens": 60,
        "enrich.chat.threads": 1,
        "enrich.inpainter.base_url": server.url,
        "guard.detector.model": checkpoint,
        "guard.detector.names": '["person", "car"]',
    }

    def run(*command, **more):
        changes = settings | {name.replace("_", "."): value for name, value in more.items()}
        parts = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
        done = CliRunner().invoke(app, [*map(str, command), "--recipe", "webui", *parts])
        assert done.exit_code == 0, done.output

    return run


@pytest.mark.slow
def test_augment_run_writes_every_step_and_a_trace_of_them(tmp_path, server, webui):
    PIL.Image.fromarray(scene(0, (160, 192))[0]).save(tmp_path / "photo.jpg")
    stages = {"remove_backend": "grabcut", "caption_backend": "measured", "refine_backend": "templates"}
    webui("run", tmp_path / "photo.jpg", "-o", tmp_path / "out", enrich_depth=2, **stages)
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    steps = trace["variants"][0]["enrich"]["steps"]
    assert [step["round"] for step in steps] == sorted(step["round"] for step in steps)
    assert {step["round"] for step in steps} == {1, 2}
    assert all(step["label"].startswith("car") and step["prompt"] for step in steps)
    written = {path.stem for path in (tmp_path / "out" / "steps").iterdir()}
    assert written == {step["step"] for step in steps}
    assert len(server.of("img2img")) == len(steps)
    with PIL.Image.open(tmp_path / "out" / "generated_image.png") as image:
        assert image.size == (192, 160)


@pytest.mark.slow
def test_augment_scenes_does_the_second_prototypes_job_from_a_prompt(tmp_path, server, webui):
    prompt = "full body, city background, walking"
    folders = ("-o", tmp_path / "out", "--cache", tmp_path / "cache")
    webui("scenes", prompt, "--depth", 2, "--size", 192, 160, *folders)
    assert server.of("txt2img")[0]["prompt"] == prompt
    pictures = {path.stem for path in (tmp_path / "out").glob("000-*/*.png")}
    assert pictures == {"0-generate", "1-car-1", "1-car-2", "2-car-1", "2-car-2"}
    assert prompt in (tmp_path / "out" / "trace.json").read_text()
    assert len(server.of("img2img")) == 4
    assert len(Cache(tmp_path / "cache").scenes()) == 1
