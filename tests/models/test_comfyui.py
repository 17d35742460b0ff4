"""ComfyUI over a real server that runs workflows and misbehaves on request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import augment.models.calling
import augment.models.comfyui
from augment import Cache, prewarm
from augment.artifacts import Matte, Prompt
from augment.cli import app
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.comfyui import AUTH
from augment.models.comfyui_workflow import Fields
from augment.recipe import Recipe
from augment.stages.base import Item
from augment.stages.enrich.inpainters.comfyui import ComfyUi as ObjectInpainter
from augment.stages.generate.comfyui import ComfyUi
from augment.stages.inpaint.comfyui import ComfyUi as Inpainter
from augment.testing.pictures import scene, write_folder
from tests import enriching, simple
from tests.comfyui_server import ComfyUiServer, inpainting, node, text_to_image
from tests.models.test_http import png_header
from tests.raw_server import RawServer, reply

PROMPT = Prompt("a beach", "people")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment.models.calling, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(augment.models.comfyui, "_LONGEST_LOOK", 0.1)
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.delenv(AUTH, raising=False)


@pytest.fixture
def server() -> Any:
    with ComfyUiServer() as server:
        yield server


def write(folder: Path, nodes: Any, name: str = "workflow.json") -> str:
    path = folder / name
    path.write_text(json.dumps(nodes))
    return str(path)


@pytest.fixture
def stage(server: Any, tmp_path: Path) -> ComfyUi:
    return ComfyUi(workflow=write(tmp_path, text_to_image()), base_url=server.url, retries=0)


def make(stage: ComfyUi, count: int = 1, shape: tuple[int, int, int] = (96, 112, 3)) -> list[Any]:
    plates = [np.full(shape, 200, np.uint8)] * count
    return stage(prompts=[PROMPT] * count, plates=plates, seeds=[2**62 + n for n in range(count)])


def failure(stage: ComfyUi) -> str:
    (failed,) = make(stage)
    assert isinstance(failed, ItemFailed), failed
    assert "\n" not in str(failed)
    return str(failed)


def problem(stage: Any) -> str:
    with pytest.raises((UnavailableError, RecipeError)) as caught:
        stage.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_workflow_is_filled_in_run_and_its_picture_brought_to_the_plates_size(server: Any, stage: ComfyUi) -> None:
    stage.check()
    (image,) = make(stage)
    assert (image.shape, image.dtype) == ((96, 112, 3), np.uint8)
    (job,) = server.jobs
    assert (job["6"]["inputs"]["text"], job["7"]["inputs"]["text"]) == ("a beach", "people")
    # The workflow's own area, 128², in the plate's aspect.
    assert (job["5"]["inputs"]["height"], job["5"]["inputs"]["width"]) == (112, 144)
    assert job["3"]["inputs"]["seed"] == 0  # 2⁶², in 32 bits
    assert job["3"]["inputs"]["steps"] == 20
    assert not server.files.keys() & {("temp", "example.png")}


def test_the_seed_decides_and_not_the_batch(stage: ComfyUi) -> None:
    together, alone = make(stage, 3), make(stage, 1)
    np.testing.assert_array_equal(together[0], alone[0])
    assert not np.array_equal(together[0], together[1])


def test_a_workflow_with_a_picture_starts_from_the_plate(server: Any, tmp_path: Path) -> None:
    nodes = text_to_image()
    nodes["5"] = node("VAEEncode", pixels=["20", 0], vae=["4", 2])
    nodes["20"] = node("LoadImage", image="example.png")
    nodes["9"] = node("PreviewImage", images=["8", 0])
    images = ComfyUi(workflow=write(tmp_path, nodes), base_url=server.url, retries=0)
    assert "set generate.size to the side in pixels that its model works at" in problem(images)
    images = ComfyUi(workflow=images.workflow, base_url=server.url, retries=0, size=128)
    images.check()
    (image,) = make(images)
    assert image.mean() > 120  # of the bright plate
    # Nothing is left in the folders for input and output.
    assert {kind for kind, _ in server.files} == {"temp"}


@pytest.mark.parametrize("separate", [False, True])
def test_an_object_is_painted_out_and_everything_else_stays(server: Any, tmp_path: Path, separate: bool) -> None:
    inpainter = Inpainter(workflow=write(tmp_path, inpainting(separate)), base_url=server.url, size=256, prompt="sand")
    inpainter.check()
    image, alpha = scene(0)[:2]
    matte = Matte.from_full(alpha)
    empty = Matte.from_full(np.zeros_like(alpha))
    plate, untouched = inpainter(images=[image, image], mattes=[matte, empty])
    hole = matte.hole(inpainter.grow)
    np.testing.assert_array_equal(plate[~hole], image[~hole])
    assert np.ptp(plate[matte.uncropped() > 250].reshape(-1, 3), axis=0).max() < 40  # one color, but for the resize
    np.testing.assert_array_equal(untouched, image)
    (job,) = server.jobs
    assert (job["6"]["inputs"]["text"], job["7"]["inputs"]["text"]) == ("sand", "watermark")


def test_an_object_of_a_background_is_repainted(server: Any, tmp_path: Path) -> None:
    inpainter = ObjectInpainter(workflow=write(tmp_path, inpainting()), base_url=server.url, size=128)
    inpainter.check()
    image, mask = scene(1)[0], np.zeros((96, 112), np.uint8)
    mask[20:60, 30:80] = 255
    (painted,) = inpainter(images=[image], masks=[mask], prompts=[PROMPT], seeds=[5])
    assert painted.shape == image.shape
    assert np.ptp(painted[28:52, 38:72].reshape(-1, 3), axis=0).max() < 8
    assert server.jobs[0]["3"]["inputs"]["seed"] == 5


def test_a_plate_of_another_aspect_is_no_plate(server: Any, tmp_path: Path) -> None:
    server.scale = (1.0, 2.0)
    inpainter = Inpainter(workflow=write(tmp_path, inpainting()), base_url=server.url, size=128)
    image, alpha = scene(0)[:2]
    (failed,) = inpainter(images=[image], mattes=[Matte.from_full(alpha)])
    assert "it gave a picture of 288x112 for one of 144x112" in str(failed)
    server.scale = (2.0, 2.0)
    assert inpainter(images=[image], mattes=[Matte.from_full(alpha)])[0].shape == image.shape


# What `check` finds out


def test_what_is_no_comfyui_is_said(server: Any, stage: ComfyUi) -> None:
    page = b"<!doctype html><title>Welcome to nginx</title>"
    for status, body, kind in (
        ("200 OK", page, "text/html"),
        ("404 Not Found", page, "text/html"),
        ("200 OK", b"[]", ""),
    ):
        with RawServer(
            lambda _, send, body=body, status=status, kind=kind: send(reply(body, status=status, kind=kind))
        ) as other:
            said = problem(ComfyUi(workflow=stage.workflow, base_url=other.url))
        assert f"{other.url}: what answers there is not a ComfyUI (HTTP {status[:3]}: " in said
    said = problem(ComfyUi(workflow=stage.workflow, base_url="http://127.0.0.1:9", retries=0))
    assert "no server answers there" in said
    assert said.endswith("start ComfyUI or correct base_url")
    with pytest.raises(RecipeError, match="base_url: it holds a user name or password"):
        ComfyUi(workflow="w.json", base_url=server.url.replace("//", "//me:word@"))


def test_a_missing_model_sampler_or_node_class_is_named_with_what_there_is(server: Any, tmp_path: Path) -> None:
    def said(node: str, **inputs: Any) -> str:
        nodes = text_to_image()
        nodes[node]["inputs"] |= inputs
        return problem(ComfyUi(workflow=write(tmp_path, nodes), base_url=server.url))

    words = "has no ckpt_name 'flux.safetensors', named by node 4 (CheckpointLoaderSimple) of "
    assert words in said("4", ckpt_name="flux.safetensors")
    assert said("4", ckpt_name="flux.safetensors").endswith("it has: v1-5.safetensors, sdxl/base.safetensors")
    assert said("4", ckpt_name="sdxl\\base.safetensors").endswith("it has 'sdxl/base.safetensors'")
    assert "has no sampler_name 'DPM++ 2M'" in said("3", sampler_name="DPM++ 2M")
    assert "has no scheduler 'Karras'" in said("3", scheduler="Karras")
    server.checkpoints = []
    assert said("3").endswith("it has: none")
    nodes = text_to_image() | {"12": node("IPAdapterAdvanced", weight=1.0)}
    said_of_class = problem(ComfyUi(workflow=write(tmp_path, nodes), base_url=server.url))
    assert "has no such node class: 12 (IPAdapterAdvanced) of " in said_of_class
    nodes = text_to_image()
    del nodes["9"]
    assert "it gives no picture: add a node SaveImage" in problem(
        ComfyUi(workflow=write(tmp_path, nodes), base_url=server.url)
    )
    assert server.jobs == []


def test_a_workflow_that_cannot_be_used_is_said_by_doctor(server: Any, tmp_path: Path) -> None:
    def doctor(*settings: str) -> str:
        given = ("generate.backend=comfyui", f"generate.base_url={server.url}", *settings)
        done = CliRunner().invoke(app, ["doctor", *(part for one in given for part in ("--set", one))])
        assert done.exit_code == 1, done.output
        return " ".join(done.output.split())

    saved = write(tmp_path, {"nodes": [], "links": []}, "saved.json")
    assert "export it with File > Export (API)" in doctor(f"generate.workflow={saved}")
    assert f"{tmp_path}/gone.json: cannot be read" in doctor(f"generate.workflow={tmp_path}/gone.json")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\xff\xfe")
    assert "not text in UTF-8" in doctor(f"generate.workflow={picture}")
    good = write(tmp_path, text_to_image())
    said = doctor(f"generate.workflow={good}", 'generate.fields={prompt = "60.text"}')
    assert "generate.fields.prompt: " in said
    assert "has no node '60'" in said
    named = doctor(
        f"generate.workflow={good}", 'generate.fields={prompt = "6.text"}', "generate.base_url=http://127.0.0.1:9"
    )
    assert "no server answers there" in named


def test_a_login_comes_from_the_environment_and_is_not_shown(
    server: Any, stage: ComfyUi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.login = "Bearer token-of-mine"
    assert f"refuses the login (HTTP 401: 401 Authorization Required): set {AUTH} to" in problem(stage)
    with pytest.raises(UnavailableError, match="refuses the login"):
        make(stage)
    monkeypatch.setenv(AUTH, "token-of-mine\n")
    stage.unload()
    stage.check()
    assert isinstance(make(stage)[0], np.ndarray)
    assert "token-of" not in repr(stage) + str(stage.__getstate__())
    server.login = "Basic bWU6c2VjcmV0"
    monkeypatch.setenv(AUTH, "me:secret")
    stage.unload()
    stage.check()


# What becomes of a job


def error(kind: str, message: str) -> list[Any]:
    said = {"node_id": "3", "node_type": "KSampler", "exception_type": kind, "exception_message": message}
    return [["execution_error", said | {"traceback": ["…"], "current_inputs": {}}]]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            error("RuntimeError", "mat1 and mat2\n shapes"),
            "node 3 (KSampler) failed: RuntimeError: mat1 and mat2 shapes",
        ),
        (
            error("torch.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory."),
            "node 3 (KSampler) has run out of memory: lower generate.size",
        ),
        ([["execution_interrupted", {"node_id": "3"}]], "the job was interrupted at the server"),
        ([["progress"], None], "the job failed, and the server does not say why"),
    ],
)
def test_a_job_that_fails_is_one_sentence(server: Any, stage: ComfyUi, messages: Any, words: str) -> None:
    server.fails = messages
    assert f"{server.url}: {words}" in failure(stage)


def test_a_queue_that_never_finishes_ends_at_the_deadline_and_is_left_clean(server: Any, stage: ComfyUi) -> None:
    server.stuck = True
    late = ComfyUi(workflow=stage.workflow, base_url=server.url, retries=0, timeout=0.4)
    assert "no picture in 0.4 s, with the wait in its queue; raise generate.timeout" in failure(late)
    assert len(server.dropped) == 1


def test_a_job_that_somebody_removes_is_not_waited_for(server: Any, stage: ComfyUi) -> None:
    server.loses = True
    assert "the job was removed from its queue, or the server started again" in failure(stage)


def test_a_workflow_that_the_server_refuses_ends_the_run_in_its_words(
    server: Any, tmp_path: Path, stage: ComfyUi
) -> None:
    server.checkpoints = ["other.safetensors"]
    words = "Value not in list: ckpt_name: 'v1-5.safetensors' not in ['other.safetensors']"
    with pytest.raises(UnavailableError, match=re.escape(f"node 4 (CheckpointLoaderSimple): {words}")):
        make(stage)
    nodes = text_to_image() | {"12": node("IPAdapterAdvanced")}
    with pytest.raises(UnavailableError, match="Node 'IPAdapterAdvanced' not found. The custom node may not be"):
        make(ComfyUi(workflow=write(tmp_path, nodes), base_url=server.url))


def test_faults_that_pass_are_asked_again_and_others_are_said(server: Any, stage: ComfyUi) -> None:
    server.statuses = [500, 503]
    patient = ComfyUi(workflow=stage.workflow, base_url=server.url, retries=2)
    assert isinstance(make(patient)[0], np.ndarray)
    server.statuses = [500]
    assert failure(stage) == f"{server.url}: HTTP 500: broken on request"


def test_a_picture_that_is_none_or_would_fill_the_memory_is_not_decoded(
    server: Any, stage: ComfyUi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.body = b"<html>no picture"
    assert "_9_.png is not a PNG, JPEG or WebP image" in failure(stage)
    server.body = png_header(2**20, 2**20)
    assert "more than 34 megapixels; not decoded" in failure(stage)
    monkeypatch.setattr(augment.models.comfyui, "_LARGEST_PICTURE", 100)
    server.body = None
    assert "its reply is larger than" in failure(stage)


def test_of_several_pictures_one_is_named(server: Any, tmp_path: Path, stage: ComfyUi) -> None:
    nodes = text_to_image() | {"10": node("SaveImage", images=["8", 0])}
    path = write(tmp_path, nodes)
    said = failure(ComfyUi(workflow=path, base_url=server.url))
    assert "several nodes give a picture: 9, 10; set generate.fields.output" in said
    assert isinstance(make(ComfyUi(workflow=path, base_url=server.url, fields=Fields(output="10")))[0], np.ndarray)
    nodes["10"] = node("PreviewImage", images=["8", 0])  # a preview is not the result
    assert isinstance(make(ComfyUi(workflow=write(tmp_path, nodes), base_url=server.url))[0], np.ndarray)


# In a recipe


def test_what_is_in_the_file_belongs_to_what_is_kept(server: Any, tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "images", 3)
    path = write(tmp_path, text_to_image())
    inpaint = write(tmp_path, inpainting(), "inpaint.json")
    text = simple.recipe().to_toml()
    start = text.index("[inpaint]")
    text = text[:start] + re.sub(r"(?s)\[inpaint\].*?\n\n|\[generate\].*", "", text[start:])
    text += f'\n[inpaint]\nbackend = "comfyui"\nworkflow = "{inpaint}"\nsize = 128\nbase_url = "{server.url}"\n'
    text += f'\n[generate]\nbackend = "comfyui"\nworkflow = "{path}"\nbase_url = "{server.url}"\n'
    text += 'fields = {prompt = "6.text", seed = ["3.seed"]}\n'
    (tmp_path / "mine.toml").write_text(text)
    recipe = Recipe.load(tmp_path / "mine.toml")
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    command = ["prewarm", str(tmp_path / "images"), "--cache", str(tmp_path / "cache"), "--workers", "0"]
    command += ["--recipe", str(tmp_path / "mine.toml")]

    def jobs() -> int:
        server.jobs.clear()
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, "3 complete" in done.output) == (0, True), done.output
        return len(server.jobs)

    assert (jobs(), jobs()) == (6, 0)
    kept = set(Cache(tmp_path / "cache").names())
    nodes = text_to_image()
    nodes["3"]["_meta"]["title"] = "a title changes nothing"
    write(tmp_path, nodes)
    assert jobs() == 0
    nodes["3"]["inputs"]["steps"] = 30
    write(tmp_path, nodes)
    assert jobs() == 3
    assert set(Cache(tmp_path / "cache").names()) == kept
    done = CliRunner().invoke(app, ["doctor", "--recipe", str(tmp_path / "mine.toml")])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["run", str(paths[0]), "-o", str(tmp_path / "out"), *command[-2:]])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "generated_image.png").is_file()


def test_a_workflow_inside_the_enrichment_is_read_too(server: Any, tmp_path: Path) -> None:
    path = write(tmp_path, inpainting())
    inner = {"backend": "comfyui", "workflow": path, "base_url": server.url, "size": 64}
    recipe = simple.recipe().changed({"enrich": enriching.SUBSTAGES | {"inpainter": inner}})
    before = recipe.enrich.reads(Item(None, "0" * 32))
    write_folder(tmp_path / "images", 2)
    report = prewarm(tmp_path / "images", tmp_path / "cache", recipe, workers=0, progress=False)
    assert (report.complete, len(server.jobs)) == (2, 6)
    nodes = inpainting()
    nodes["3"]["inputs"]["steps"] = 30
    write(tmp_path, nodes)
    recipe.enrich.unload()
    assert recipe.enrich.reads(Item(None, "0" * 32)) != before
