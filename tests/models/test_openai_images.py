"""Pictures from servers with OpenAI's images endpoint: their sizes, refusals and faults."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import augment.models.calling
import augment.models.openai_images
from augment import Cache, prewarm
from augment.artifacts import Prompt
from augment.cli import app
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.openai_images import closest, free_size
from augment.models.openai_server import KEY
from augment.recipe import Recipe
from augment.stages.generate.openai import OpenAi
from augment.testing.pictures import write_folder
from tests import simple
from tests.images_server import ImagesServer
from tests.models.test_http import png_header
from tests.raw_server import RawServer, reply

GPT = ("1024x1024", "1536x1024", "1024x1536")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment.models.calling, "_FIRST_PAUSE", 0.01)
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def server() -> Any:
    with ImagesServer() as server:
        yield server


def stage(server: Any, **settings: Any) -> OpenAi:
    return OpenAi(**{"model": "sd-cpp-local", "base_url": server.url, "retries": 0} | settings)


def make(stage: OpenAi, *texts: str, shape: tuple[int, int, int] = (90, 120, 3)) -> list[Any]:
    texts = texts or ("a beach",)
    return stage(prompts=[Prompt(text, "people") for text in texts], plates=[np.zeros(shape, np.uint8)] * len(texts))


def failure(stage: OpenAi, *texts: str) -> str:
    (failed,) = make(stage, *texts)
    assert isinstance(failed, ItemFailed), failed
    assert "\n" not in str(failed)
    return str(failed)


def test_a_local_server_is_asked_in_the_plates_aspect_and_the_picture_brought_to_its_size(server: Any) -> None:
    (image,) = make(stage(server))
    assert (image.shape, image.dtype) == ((90, 120, 3), np.uint8)
    (body,) = server.requests
    assert body == {"model": "sd-cpp-local", "prompt": "a beach", "size": "576x448", "response_format": "b64_json"}


def test_openais_models_are_asked_for_the_sizes_that_they_make(server: Any) -> None:
    server.refuses, server.sizes = {"response_format"}, GPT
    shapes = {(300, 300, 3): "1024x1024", (300, 450, 3): "1536x1024", (500, 300, 3): "1024x1536"}
    images = stage(server, model="gpt-image-1", quality="low", concurrency=1)
    for shape in shapes:
        assert make(images, shape=shape)[0].shape == shape
    # What it refuses is learned from the first answer, and asked for no more.
    assert [body["size"] for body in server.requests] == ["1024x1024", *shapes.values()]
    assert ["response_format" in body for body in server.requests] == [True, False, False, False]
    assert {body["quality"] for body in server.requests} == {"low"}


@pytest.mark.parametrize(
    ("sizes", "height", "width", "wanted"),
    [
        (GPT, 480, 640, "1536x1024"),
        (GPT, 500, 500, "1024x1024"),
        (("256x256", "512x512", "1024x1024"), 300, 400, "512x512"),
        (("256x256", "512x512"), 2000, 2000, "512x512"),
        (("1024x1024", "1792x1024"), 100, 900, "1792x1024"),
    ],
)
def test_the_closest_aspect_is_chosen_and_then_the_smallest_that_suffices(
    sizes: Any, height: int, width: int, wanted: str
) -> None:
    assert closest(sizes, height, width) == wanted


def test_a_free_size_has_the_area_and_whole_steps() -> None:
    assert free_size(512, 512, 512) == "512x512"
    assert free_size(512, 10, 4000) == "10240x64"


def test_a_picture_of_another_size_is_cropped_to_the_plates(server: Any) -> None:
    server.makes = (640, 640)
    (image,) = make(stage(server))
    assert image.shape == (90, 120, 3)


def test_a_size_that_the_server_does_not_make_is_said_with_the_way_out(server: Any) -> None:
    server.sizes = GPT
    said = failure(stage(server, retries=3))
    assert "HTTP 400: Invalid value: '576x448'. Supported values are: '1024x1024'" in said
    assert said.endswith("set generate.sizes")
    assert isinstance(make(stage(server, sizes=GPT))[0], np.ndarray)
    with pytest.raises(RecipeError, match="sizes: '1024' is not a size"):
        stage(server, sizes=("1024",))


def test_a_quality_that_is_refused_is_not_dropped_in_silence(server: Any) -> None:
    server.refuses = {"quality"}
    assert failure(stage(server, quality="hd")).endswith("asked for quality 'hd': set generate.quality")


def test_a_refused_prompt_fails_its_item_in_the_servers_words(server: Any) -> None:
    failed, image = make(stage(server, retries=3, concurrency=1), "a forbidden beach", "a beach")
    assert "HTTP 400: Your request was rejected by the safety system. safety_violations=[violence]." in str(failed)
    assert isinstance(image, np.ndarray)
    assert len(server.requests) == 2


SPENT = [
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
    (400, {"error": {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}}),
    (402, {"error": "pay"}),
]


@pytest.mark.parametrize(("status", "content"), SPENT)
def test_an_empty_account_ends_the_stage_at_once(server: Any, status: int, content: Any, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 8)
    server.errors = [(status, content)] * 99
    recipe = simple.recipe().changed({"generate": stage(server, retries=3)})
    with pytest.raises(UnavailableError, match="the account has nothing left .HTTP"):
        prewarm(tmp_path / "images", tmp_path / "cache", recipe, workers=0, progress=False)
    assert len(server.requests) <= 2


def test_a_key_is_asked_for_corrected_and_never_shown(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key, server.models = "sk-right-key", None
    with pytest.raises(UnavailableError, match=f"refuses the key .*set {KEY}"):
        stage(server).check()
    monkeypatch.setenv(KEY, "sk-wrong-key")
    with pytest.raises(UnavailableError, match=f"correct {KEY}") as caught:
        stage(server).check()
    assert "sk-wrong" not in str(caught.value)
    with pytest.raises(UnavailableError, match="refuses the key"):
        make(stage(server))
    monkeypatch.setenv(KEY, "sk-right-key")
    images = stage(server)
    images.check()
    assert isinstance(make(images)[0], np.ndarray)
    assert "sk-right" not in repr(images) + str(images.__getstate__())
    server.errors = [(403, {"error": {"message": "Your organization must be verified to use this model"}})]
    with pytest.raises(UnavailableError, match="must be verified to use this model.*ask for the right"):
        make(images)


def test_check_generates_nothing(server: Any) -> None:
    for models in (["sd-cpp-local"], None, []):
        server.models = models
        stage(server).check()
    assert server.requests == []


def test_a_model_that_the_server_lacks_is_named_with_those_it_has(server: Any) -> None:
    with pytest.raises(UnavailableError, match="it has no model 'flux'; it has: sd-cpp-local"):
        stage(server, model="flux").check()


def test_what_is_no_images_server_is_said(server: Any) -> None:
    with pytest.raises(UnavailableError, match=f"write base_url = '{server.url}'"):
        stage(server, base_url=server.url.removesuffix("/v1")).check()
    page = b"<!doctype html><title>Welcome to nginx</title>"
    with (
        RawServer(lambda _, send: send(reply(page, kind="text/html"))) as other,
        pytest.raises(UnavailableError, match="not an OpenAI-compatible server.*Welcome to nginx"),
    ):
        stage(other).check()

    def chats_only(request: bytes, send: Any) -> None:
        models = reply(json.dumps({"data": [{"id": "sd-cpp-local"}]}).encode())
        send(models if request.startswith(b"GET") else reply(b'{"detail": "Not Found"}', status="404 Not Found"))

    with RawServer(chats_only) as chats, pytest.raises(UnavailableError, match="HTTP 404: Not Found"):
        stage(chats).check()
    with pytest.raises(UnavailableError, match="no server answers there"):
        stage(server, base_url="http://127.0.0.1:9/v1").check()


def test_a_picture_at_the_servers_own_address_is_fetched(server: Any) -> None:
    server.as_url = ""
    (image,) = make(stage(server))
    assert server.fetched == ["/generated-images/1.png"]
    assert image.shape == (90, 120, 3)


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest", "https://127.0.0.1:1", "file:///etc", "https://me:word@example.org"]
)
def test_a_picture_at_an_address_that_could_be_anybodys_is_not_fetched(server: Any, address: str) -> None:
    server.as_url = address
    assert "its picture is at an address that is not asked" in failure(stage(server))


def test_a_redirect_to_the_picture_is_not_followed() -> None:
    with RawServer(lambda _, send: send(reply(b"{}"))) as other:

        def answer(request: bytes, send: Any) -> None:
            if request.startswith(b"POST"):
                send(reply(json.dumps({"data": [{"url": f"{server.url}/1.png"}]}).encode()))
            else:
                send(reply(b"", f"Location: {other.url}/2.png", status="302 Found"))

        with RawServer(answer) as server:
            assert "its picture cannot be fetched: " in failure(stage(server))
        assert other.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": []}',
        b'{"data": [3]}',
        b'{"data": [{"b64_json": "!"}]}',
        b'{"data":[{}]}',
    ],
)
def test_a_reply_without_a_picture_is_said(server: Any, body: bytes) -> None:
    server.body = body
    assert "its reply holds no picture: " in failure(stage(server, retries=3))
    assert len(server.requests) == 1


def test_pictures_that_are_none_or_would_fill_the_memory_are_not_decoded(server: Any) -> None:
    for data, words in ((b"<svg/>", "not a PNG"), (png_header(2**20, 2**20), "more than 34 megapixels")):
        server.body = json.dumps({"data": [{"b64_json": base64.b64encode(data).decode()}]}).encode()
        assert words in failure(stage(server))


def test_a_reply_that_is_too_large_or_too_late_fails_the_item(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment.models.openai_images, "_LARGEST_REPLY", 1000)
    assert "its reply is larger than" in failure(stage(server))
    with RawServer(lambda _, send: send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")) as slow:
        assert "it broke off its reply" in failure(stage(slow))


def test_a_fault_that_passes_is_asked_again(server: Any) -> None:
    server.errors = [(500, {"error": "server_error"}), (429, {"error": {"message": "Rate limit reached"}})]
    assert isinstance(make(stage(server, retries=2))[0], np.ndarray)
    assert len(server.requests) == 3


def test_a_recipe_runs_end_to_end_and_a_second_run_asks_nothing(server: Any, tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "images", 3)
    recipe = simple.recipe().changed({"generate": stage(server)})
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    command = ["prewarm", str(tmp_path / "images"), "--cache", str(tmp_path / "cache"), "--workers", "0"]
    command += ["--recipe", str(tmp_path / "mine.toml"), "--variants", "2"]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "3 complete" in done.output) == (0, True), done.output
    kept = {name: bytes(Cache(tmp_path / "cache").get(name)) for name in Cache(tmp_path / "cache").names()}
    assert len(server.requests) == 6
    assert CliRunner().invoke(app, command).exit_code == 0
    assert len(server.requests) == 6
    assert {name: bytes(Cache(tmp_path / "cache").get(name)) for name in kept} == kept
    one = ["run", str(paths[0]), "-o", str(tmp_path / "out"), "--recipe", str(tmp_path / "mine.toml")]
    done = CliRunner().invoke(app, one)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "composite.png").is_file()
    done = CliRunner().invoke(app, ["doctor", "--recipe", str(tmp_path / "mine.toml")])
    assert done.exit_code == 0, done.output
    assert server.url in done.output


def test_the_recipe_survives_toml(server: Any) -> None:
    recipe = Recipe.load("classic").changed({"generate": {"backend": "openai", "model": "m", "sizes": ["512x512"]}})
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.fingerprints() == recipe.fingerprints()
