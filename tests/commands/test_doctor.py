"""`augment doctor` says no, with the reason and the way out, to what cannot work."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from augment.cli import app
from augment.commands.doctor import examine
from augment.errors import UnavailableError
from augment.models.gpt4all import check_device
from augment.models.headers import check_onnx
from augment.models.openai_server import KEY
from augment.models.webui import AUTH
from augment.recipe import Recipe
from tests.chat_server import ChatServer
from tests.webui_server import WebUiServer


def doctor(*settings: str) -> str:
    """What it says of the classic recipe with these changes; the exit code is 1."""
    done = CliRunner().invoke(app, ["doctor", *(part for setting in settings for part in ("--set", setting))])
    assert done.exit_code == 1, done.output
    return " ".join(done.output.split())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    for name in (KEY, AUTH):
        monkeypatch.delenv(name, raising=False)


def test_a_chat_server_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    refine = ("refine.backend=openai", "refine.model=words")
    with ChatServer() as server:
        server.key = "sk-right"
        assert f"set {KEY}" in doctor(*refine, f"refine.base_url={server.url}")
        monkeypatch.setenv(KEY, "sk-wrong-key\n")
        said = doctor(*refine, f"refine.base_url={server.url}")
        assert f"correct {KEY}" in said
        assert "sk-wrong" not in said
        monkeypatch.setenv(KEY, "sk-right\n")
        assert f"write base_url = '{server.url}'" in doctor(*refine, f"refine.base_url={server.url[:-3]}")
        server.models = ["other"]
        assert "it has: other" in doctor(*refine, f"refine.base_url={server.url}")
        server.models = ["words"]
        assert [finding.problem for finding in examine(_recipe({"refine.base_url": server.url}))] == [None] * 5


def _recipe(settings: dict[str, Any]) -> Recipe:
    return Recipe.load("classic").changed({"refine.backend": "openai", "refine.model": "words"} | settings)


@pytest.mark.parametrize("setting", ["sampler=DPM++ 9M", "scheduler=Karas", "checkpoint=sdxl"])
def test_a_webui_that_lacks_a_name(setting: str) -> None:
    with WebUiServer() as server:
        said = doctor("generate.backend=webui", f"generate.base_url={server.url}", f"generate.{setting}")
    name, _, value = setting.partition("=")
    assert f"has no {name} '{value}'; it has: " in said


def test_cuda_that_gpt4all_does_not_have(tmp_path: Path) -> None:
    pytest.importorskip("gpt4all")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes([3, 0, 0, 0]) + bytes(16))
    refine = ("refine.backend=gpt4all", f"refine.model={model}")
    said = doctor(*refine, "refine.device=cuda:Imaginary 9000")
    assert 'device = "cuda:Imaginary 9000": GPT4All finds no such device on this machine, only' in said
    assert 'use device = "cpu"' in said
    model.write_bytes(b"PK\x03\x04 not GGUF")
    assert "is not a GGUF file" in doctor(*refine)
    check_device(None)
    check_device("cpu")


FILES = {
    "pth": (None, "is a PyTorch checkpoint, and not an ONNX model: export it with torch.onnx.export"),
    "pkl": (b"\x80\x02}q\x00.", "is a PyTorch checkpoint or another pickle"),
    "html": (b"<!doctype html><html>", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "text": (b"hello, I am no model at all", "is not a whole ONNX model"),
    "empty": (b"", "is not a whole ONNX model"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_not_onnx_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    content, words = FILES[kind]
    if content is None:
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    assert words in doctor("remove.backend=rembg", f"remove.model={path}")


def test_an_onnx_file_without_its_end_is_told_from_a_whole_one(isnet: Path, tmp_path: Path) -> None:
    check_onnx(isnet)
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(isnet.read_bytes()[:1_000_000])
    with pytest.raises(UnavailableError, match="its end is missing"):
        check_onnx(torn)


def test_cuda_of_onnxruntime_that_does_not_come_about(
    monkeypatch: pytest.MonkeyPatch, isnet: Path, caplog: Any
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    rembg = ("remove.backend=rembg", f"remove.model={isnet}")
    assert 'built without CUDA: pip install "rembg[gpu]"' in doctor(*rembg, "remove.device=cuda")
    # As onnxruntime-gpu without CUDA's libraries: it claims to have CUDA, and its sessions run on the CPU.
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        said = doctor(*rembg, "remove.device=cuda")
    assert 'device = "cuda": onnxruntime cannot load its CUDA libraries' in said
    recipe = Recipe.load("classic").changed({"remove.backend": "rembg", "remove.model": str(isnet)})
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        first, *_ = examine(recipe)
    assert (first.target, first.problem) == ("cpu", None)
    warned = [record for record in caplog.records if "rembg runs on the CPU" in record.message]
    assert len(warned) == 1


def test_a_checkpoint_that_is_no_mask_rcnn(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "not a state dict of torchvision's Mask R-CNN" in doctor("remove.backend=mask-rcnn", f"remove.model={path}")
    path.write_bytes(path.read_bytes()[:-4])
    assert "its end is missing" in doctor("remove.backend=mask-rcnn", f"remove.model={path}")


def test_the_own_settings_of_a_stage_with_stages_inside_are_checked(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = Recipe.load("classic").to_toml() + '[guard]\nbackend = "own-class"\nequivalents = { mug = ["cups"] }\n'
    recipe.write_text(text)
    done = CliRunner().invoke(app, ["doctor", "-r", str(recipe)])
    assert done.exit_code == 1
    assert "guard: guard.equivalents.mug: cups not among the detector's classes" in " ".join(done.output.split())


def test_an_unknown_class_is_a_finding_and_not_the_end_of_doctor() -> None:
    assert "remove.classes: unicorn not among" in doctor("remove.backend=mask-rcnn", 'remove.classes=["unicorn"]')


class _Hub(BaseHTTPRequestHandler):
    """Every model has a page; "me/gated" may not be downloaded, "me/private" is not there for strangers."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        code = None
        if "private" in name:
            code = "RepoNotFound"
        elif "gated" in name and name.endswith("auth-check"):
            code = "GatedRepo"
        body = json.dumps({"id": "me/model", "siblings": []} if code is None else {"error": "no"}).encode()
        self.send_response(200 if code is None else 401 if code == "RepoNotFound" else 403)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield url
    server.shutdown()
    server.server_close()


def test_a_gated_model_asks_for_its_terms_and_a_login(hub: str) -> None:
    said = doctor("caption.backend=transformers", "caption.model=me/gated")
    assert f"me/gated is gated, and this account may not download it: accept its terms at {hub}/me/gated" in said
    assert "hf auth login" in said
    said = doctor("caption.backend=transformers", "caption.model=me/private")
    assert re.search("the hub has no such model, or it is private .*hf auth login", said)
