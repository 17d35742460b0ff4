"""Stable Diffusion WebUI over a real server that misbehaves on request."""

from __future__ import annotations

import base64
import json
import re
import time

import numpy as np
import pytest
from typer.testing import CliRunner

import augment.models.calling
from augment import Cache
from augment.artifacts import Prompt
from augment.cli import app
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.webui import AUTH
from augment.stages.enrich.inpainters.webui import WebUi as Inpainter
from augment.stages.generate.webui import HiresFix, WebUi
from augment.testing.pictures import scene, write_folder
from tests import enriching, simple
from tests.models.test_http import png_header
from tests.webui_server import WebUiServer, img2img

PROMPT = Prompt("a beach", "people")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(augment.models.calling, "_FIRST_PAUSE", 0.01)
    monkeypatch.delenv(AUTH, raising=False)


@pytest.fixture
def server():
    with WebUiServer() as server:
        yield server


def generate(stage, count=1, shape=(96, 112, 3)):
    plates = [np.zeros(shape, np.uint8)] * count
    return stage(prompts=[PROMPT] * count, plates=plates, seeds=[2**62 + n for n in range(count)])


def failure(server, **settings):
    """The one item's failure, as text."""
    (failed,) = generate(WebUi(base_url=server.url, **({"retries": 0} | settings)))
    assert isinstance(failed, ItemFailed), failed
    assert server.url in str(failed)
    return str(failed)


def test_a_background_has_the_plates_size_and_the_settings_reach_the_server(server):
    stage = WebUi(base_url=server.url, checkpoint="v1-5-pruned", sampler="Euler a", steps=7, size=128)
    stage.check()
    (image,) = generate(stage)
    assert (image.shape, image.dtype) == ((96, 112, 3), np.uint8)
    (body,) = server.of("txt2img")
    assert (body["prompt"], body["negative_prompt"], body["sampler_name"], body["steps"]) == (
        "a beach",
        "people",
        "Euler a",
        7,
    )
    assert (body["height"], body["width"]) == (120, 136)  # the area of 128², the plate's aspect, in steps of 8
    assert body["override_settings"] == {"sd_model_checkpoint": "v1-5-pruned"}
    assert 0 <= body["seed"] < 2**32
    assert "enable_hr" not in body


def test_hires_fix_is_asked_for_and_brought_back_to_the_plates_size(server):
    stage = WebUi(base_url=server.url, hires=HiresFix(scale=1.5, upscaler="R-ESRGAN 4x+", steps=4, denoising=0.3))
    (image,) = generate(stage)
    assert image.shape == (96, 112, 3)
    (body,) = server.of("txt2img")
    wanted = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "R-ESRGAN 4x+", "hr_second_pass_steps": 4}
    assert body.items() >= (wanted | {"denoising_strength": 0.3}).items()


def test_the_seed_decides_and_not_the_batch(server):
    stage = WebUi(base_url=server.url)
    together, alone = generate(stage, 3), generate(stage, 1)
    np.testing.assert_array_equal(together[0], alone[0])
    assert not np.array_equal(together[0], together[1])


def test_an_object_is_repainted_through_its_mask(server):
    image, mask = scene(1)[0], np.zeros((96, 112), np.uint8)
    mask[20:60, 30:80] = 255
    (painted,) = Inpainter(base_url=server.url, strength=0.6)(images=[image], masks=[mask], prompts=[PROMPT], seeds=[5])
    (body,) = server.of("img2img")
    assert (body["denoising_strength"], body["inpaint_full_res"], body["mask_blur"]) == (0.6, False, 0)
    assert painted.shape == image.shape
    expected = img2img(body)[0, 0].astype(int)  # outside the mask, where the server has changed the brightness
    assert np.abs(painted[0, 0] - expected).max() < 12
    assert np.ptp(painted[25:55, 35:75].reshape(-1, 3), axis=0).max() == 0


def test_no_more_requests_are_in_flight_than_allowed(server):
    server.delay = 0.1
    generate(WebUi(base_url=server.url, concurrency=3), 9)
    assert server.most_at_once == 3


def test_the_login_comes_from_the_environment_and_stays_out_of_the_stage(server, monkeypatch):
    server.auth = "me:secret:word"
    stage = WebUi(base_url=server.url)
    with pytest.raises(
        UnavailableError, match=r'refuses the login \(HTTP 401\): set AUGMENT_WEBUI_AUTH to "user:password"'
    ):
        stage.check()
    assert "HTTP 401: Incorrect password" in failure(server)
    monkeypatch.setenv(AUTH, "me:secret:word")
    stage.unload()
    stage.check()
    assert isinstance(generate(stage)[0], np.ndarray)
    assert "secret" not in repr(stage) + str(stage.__getstate__())
    stage.unload()
    monkeypatch.setenv(AUTH, "secret")
    with pytest.raises(UnavailableError, match="AUGMENT_WEBUI_AUTH: .*no colon") as caught:
        stage.check()
    assert "secret" not in str(caught.value)


def test_a_checkpoint_that_the_server_lacks_is_named_with_those_it_has(server):
    # WebUI itself would silently use another one.
    with pytest.raises(UnavailableError, match="no checkpoint 'sdxl'; it has: sd-v1-5-inpainting, v1-5-pruned"):
        WebUi(base_url=server.url, checkpoint="sdxl").check()


@pytest.mark.parametrize(
    "form",
    [
        "sd/v1-5.ckpt [cc6cb27103]",
        "sd/v1-5.ckpt",
        "sd/v1-5",
        "v1-5.ckpt [cc6cb27103]",
        "v1-5.ckpt",
        "v1-5",
        "v1-5 [cc6cb27103]",
        "cc6cb27103",
        "sd_v1-5",
        None,
    ],
)
def test_a_checkpoint_may_be_named_in_every_form_that_webui_takes(server, form):
    server.checkpoints = ["sd/v1-5"]
    server.known = [{"title": "sd/v1-5.ckpt [cc6cb27103]", "model_name": "sd_v1-5", "hash": "cc6cb27103"}]
    WebUi(base_url=server.url, checkpoint=form).check()
    assert server.of("txt2img") == []
    with pytest.raises(UnavailableError, match="v1-6"):
        WebUi(base_url=server.url, checkpoint="v1-6").check()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "DPM++ 9M"}, "has no sampler 'DPM++ 9M'; it has: DPM++ 2M, Euler a, Euler"),
        ({"sampler": "euler_a"}, "has no sampler 'euler_a'; write 'Euler a'"),
        ({"scheduler": "Exponential"}, "has no scheduler 'Exponential'; it has: Automatic"),
        ({"hires": HiresFix(upscaler="4x-None")}, "has no upscaler '4x-None'; it has: "),
    ],
)
def test_names_that_the_server_lacks_are_said_before_any_work(server, settings, words):
    # Forge would silently take "Automatic" for a scheduler.
    with pytest.raises(UnavailableError, match=re.escape(words)):
        WebUi(base_url=server.url, **settings).check()


def test_names_of_older_versions_and_servers_that_list_none_are_taken(server):
    WebUi(base_url=server.url, sampler="DPM++ 2M Karras", scheduler="karras").check()
    WebUi(base_url=server.url, hires=HiresFix()).check()
    with pytest.raises(UnavailableError, match="has no sampler 'any'"):
        WebUi(base_url=server.url, sampler="any").check()
    server.samplers = server.schedulers = None
    WebUi(base_url=server.url, sampler="any", scheduler="any").check()


def test_a_picture_that_would_fill_the_memory_is_not_decoded(server):
    bomb = png_header(2**20, 2**20)
    server.body = json.dumps({"images": [base64.b64encode(bomb).decode()]}).encode()
    assert "more than 34 megapixels; not decoded" in failure(server)


def test_a_login_with_a_line_break_works_and_one_in_the_address_is_refused(server, monkeypatch):
    server.auth = "me:secret:word"
    monkeypatch.setenv(AUTH, "me:secret:word\n")
    WebUi(base_url=server.url).check()
    with pytest.raises(RecipeError, match="base_url: it holds a user name or password") as caught:
        WebUi(base_url=server.url.replace("//", "//me:secret:word@"))
    assert "secret" not in str(caught.value)


def test_a_wrong_address_is_said_before_any_work(server):
    with pytest.raises(UnavailableError, match=r"has no WebUI API \(HTTP 404\): start WebUI with --api"):
        WebUi(base_url=f"{server.url}/wrong").check()
    server.body = b"<html>"
    with pytest.raises(UnavailableError, match="is not a WebUI"):
        WebUi(base_url=server.url).check()
    server.stop()
    with pytest.raises(UnavailableError, match=f"{re.escape(server.url)}: no server answers there .*base_url"):
        WebUi(base_url=server.url).check()


def test_a_fault_of_the_server_passes_with_another_try(server):
    server.statuses = [500, 503, 429]
    assert isinstance(generate(WebUi(base_url=server.url, retries=3))[0], np.ndarray)
    assert len(server.requests) == 4


def test_a_lasting_fault_fails_its_item_alone(server):
    server.statuses = [500]
    failed, image = generate(WebUi(base_url=server.url, retries=0, concurrency=1), 2)
    assert str(failed) == f"{server.url}: HTTP 500: broken on request"
    assert isinstance(image, np.ndarray)


def test_what_was_asked_wrongly_is_not_asked_again(server):
    server.statuses = [422]
    assert failure(server, retries=3).endswith("HTTP 422: broken on request")
    assert len(server.requests) == 1


def test_a_reply_that_breaks_off_is_asked_for_again_and_then_said(server):
    server.cut = True
    assert "it broke off its reply" in failure(server, retries=1)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"images": []}',
        b'{"images": [3]}',
        b'{"images": ["!"]}',
        b'{"images": ["aGk="]}',
    ],
)
def test_a_reply_that_is_not_an_image_is_said(server, body):
    server.body = body
    assert "txt2img: its reply holds no image: " in failure(server, retries=3)
    assert len(server.requests) == 1


def test_a_slow_server_fails_the_item_and_is_not_asked_again(server):
    server.delay = 1.0
    assert "no whole answer in 0.2 s" in failure(server, timeout=0.2, retries=3)
    assert len(server.requests) == 1


def test_once_the_server_is_gone_the_next_items_do_not_wait(server, monkeypatch):
    monkeypatch.setattr(augment.models.calling, "_FIRST_PAUSE", 0.2)
    server.stop()
    stage = WebUi(base_url=server.url, retries=2, concurrency=1)
    started = time.monotonic()
    failed = generate(stage, 20)
    assert all("no server answers there" in str(item) for item in failed)
    assert time.monotonic() - started < 5  # 20 times all pauses would be 12 s
    server.start()
    assert isinstance(generate(stage)[0], np.ndarray)


@pytest.mark.parametrize(("images", "kind"), [(13, "generate"), (50, "enrich")])
def test_a_server_killed_midway_loses_nothing_and_the_next_run_does_the_rest(tmp_path, server, images, kind):
    write_folder(tmp_path / "images", 30)
    served = {"backend": "webui", "base_url": server.url, "retries": 1, "size": 64}
    recipe = simple.recipe().changed({"generate": served, "enrich": enriching.SUBSTAGES | {"inpainter": served}})
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    command = ["prewarm", str(tmp_path / "images"), "--cache", str(tmp_path / "cache")]
    command += ["--recipe", str(tmp_path / "mine.toml"), "--workers", "0", "--report", str(tmp_path / "report.csv")]
    server.dies_after = images
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 1, first.output
    cache = Cache(tmp_path / "cache")
    kept = {name: bytes(cache.get(name)) for name in cache.names()}
    fingerprint = recipe.fingerprints()[kind]
    done = [name for name in kept if name.startswith(f"background/{fingerprint}/")]
    rows = (tmp_path / "report.csv").read_text()
    failed = set(re.findall(rf"(\d{{3}}\.png) \(variant 0\),{kind},failed,http", rows))
    assert 0 < len(done) < 30
    assert len(failed) == 30 - len(done)
    assert first.output.count("  failed  ") < 6  # equal reasons are counted

    server.dies_after = None
    server.requests.clear()
    server.start()
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0, second.output
    assert "30 complete" in second.output
    assert len(server.of("txt2img")) == (len(failed) if kind == "generate" else 0)
    assert len(server.of("img2img")) == 3 * (30 if kind == "generate" else len(failed))
    assert {name: bytes(cache.get(name)) for name in kept} == kept
