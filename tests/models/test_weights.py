"""Where models are looked for, and what is said where they are not."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest

from augment.errors import UnavailableError
from augment.models import weights
from augment.models.diffusers import DiffusersWeights
from augment.models.gpt4all import Gguf
from augment.models.mask_rcnn import TorchvisionCheckpoint
from augment.models.rembg import RembgWeights
from augment.models.transformers import TransformersWeights
from augment.models.weights import HubWeights, Weights, pick_device, pick_dtype

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def pipeline_folder(folder: Path, *names: str) -> Path:
    folder_of(folder, "unet/config.json", "vae/config.json", "tokenizer/vocab.json", *names)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model in any cache, and HF_HUB_OFFLINE set. Gives the hub's cache folder."""
    home = tmp_path / "home"
    for name, value in {"HOME": home, "U2NET_HOME": home / "u2net", "TORCH_HOME": home / "torch"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(home / "hub"), raising=False)
    return home / "hub"


@pytest.mark.parametrize(
    ("model", "command"),
    [
        (TransformersWeights("microsoft/git-large-coco"), "hf download microsoft/git-large-coco"),
        (TransformersWeights("a/b", revision="v2"), "hf download a/b --revision v2"),
        (
            DiffusersWeights("stabilityai/sd-turbo", variant="fp16"),
            "P.download('stabilityai/sd-turbo', variant='fp16'",
        ),
        (Gguf("mistral-7b-instruct-v0.1.Q4_0.gguf"), "G.retrieve_model('mistral-7b-instruct-v0.1.Q4_0.gguf')"),
        (RembgWeights("isnet-general-use"), "rembg.new_session('isnet-general-use')"),
        (TorchvisionCheckpoint("MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"), "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_offline_fails_at_once_with_the_model_what_was_tried_and_the_command(model: Weights, command: str) -> None:
    model.find()  # whatever the first look imports
    start = time.perf_counter()
    for ask in (model.check, model.resolve):
        with pytest.raises(UnavailableError) as caught:
            ask()
        message = str(caught.value)
        assert message.startswith(f"{model.model}: not on this machine (looked in ")
        assert "HF_HUB_OFFLINE forbids a download" in message
        assert command in message
        assert "\n" not in message
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("kind", [DiffusersWeights, TransformersWeights])
def test_old_home_of_stable_diffusion_names_the_new_one(kind: type[HubWeights]) -> None:
    with pytest.raises(UnavailableError, match="stable-diffusion-v1-5/stable-diffusion-v1-5"):
        kind("runwayml/stable-diffusion-v1-5").check()


def test_local_folder_comes_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "git", "config.json", "model.safetensors")
    pipeline = pipeline_folder(tmp_path / "sd", "unet/x.safetensors", "vae/x.safetensors")
    assert TransformersWeights(str(folder)).resolve() == folder
    assert DiffusersWeights(str(pipeline)).resolve() == pipeline


@pytest.mark.parametrize(
    ("names", "lacks"),
    [
        (("config.json", "pytorch_model.bin"), "*.safetensors"),
        (("model.safetensors",), "config.json"),
    ],
)
def test_incomplete_folder_is_told_what_it_lacks(tmp_path: Path, names: tuple[str, ...], lacks: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        TransformersWeights(str(folder_of(tmp_path / "git", *names))).resolve()
    assert str(caught.value).endswith(f"it has no {lacks}")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "config.json", "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UnavailableError, match=r"it has no model-00002-of-00002\.safetensors"):
        TransformersWeights(str(folder)).find()


@pytest.mark.parametrize(
    ("names", "variant", "lacks"),
    [
        (("unet/x.safetensors",), None, "vae/*.safetensors"),
        (("unet/x.fp16.safetensors",), None, "unet/*.safetensors"),
        (("unet/x.safetensors", "vae/x.safetensors"), "fp16", "*.fp16.safetensors"),
    ],
)
def test_pipeline_is_told_which_component_lacks_weights(
    tmp_path: Path, names: tuple[str, ...], variant: str | None, lacks: str
) -> None:
    with pytest.raises(UnavailableError) as caught:
        DiffusersWeights(str(pipeline_folder(tmp_path, *names)), variant=variant).find()
    assert str(caught.value).endswith(f"it has no {lacks}")


def test_variant_may_cover_some_components_and_a_component_may_be_left_out(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path, "unet/x.fp16.safetensors", "vae/x.safetensors")
    assert DiffusersWeights(str(folder), variant="fp16").find() == folder
    assert DiffusersWeights(str(folder)).find() == folder
    assert DiffusersWeights(str(folder)).variant_in(folder) == "fp16"
    assert DiffusersWeights(str(folder), without=("unet",)).find() == folder


def test_path_that_is_not_there_is_not_looked_up_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="there is no such folder, and it is not a name on the hub"):
        TransformersWeights(str(tmp_path / "nowhere")).resolve()


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_hub_cache_comes_second_and_a_torn_snapshot_is_none(empty_machine: Path, revision: str | None) -> None:
    repository = empty_machine / "models--someone--git"
    snapshot = folder_of(repository / "snapshots" / COMMIT, "config.json")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    model = TransformersWeights("someone/git", revision)
    assert model.find() is None
    folder_of(snapshot, "model.safetensors")
    assert model.resolve() == snapshot
    assert TransformersWeights("someone/git", "another-branch").find() is None


@pytest.mark.parametrize("server", ["none", "silent"])
def test_hub_that_does_not_answer_costs_seconds(server: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if server == "none":
            listening.close()
        code = (
            "import time; from augment.models import transformers, weights; weights.PROBE_SECONDS = 0.5\n"
            "import huggingface_hub; start = time.perf_counter()\n"
            "try: transformers.TransformersWeights('someone/git').resolve()\n"
            "except weights.UnavailableError as error: print(time.perf_counter() - start, error)\n"
        )
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    seconds, _, message = done.stdout.strip().partition(" ")
    assert float(seconds) < 30
    assert message.startswith("someone/git: not on this machine")
    assert "cannot be downloaded (" in message
    assert message.endswith("hf download someone/git")


def test_gguf_is_found_by_path_in_its_folder_and_in_gpt4alls_own(tmp_path: Path) -> None:
    own = folder_of(tmp_path / "home" / ".cache" / "gpt4all", "a.gguf") / "a.gguf"
    given = folder_of(tmp_path / "models", "a.gguf", "b.gguf")
    assert Gguf("a").find() == Gguf("a.gguf").find() == own
    assert Gguf("a", folder=str(given)).find() == given / "a.gguf"
    assert Gguf(str(given / "b.gguf")).find() == given / "b.gguf"
    assert Gguf("b").find() is None


def test_rembg_model_is_found_by_path_and_in_rembgs_home(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "home" / "u2net", "u2netp.onnx", "models/silueta/silueta.onnx")
    local = folder_of(tmp_path / "mine", "net.onnx") / "net.onnx"
    assert RembgWeights(str(local)).find() == local
    assert RembgWeights("u2netp").find() == home / "u2netp.onnx"
    assert RembgWeights("silueta").find() == home / "models" / "silueta" / "silueta.onnx"


@pytest.mark.parametrize("name", ["isnet", "sam", "withoutbg", "u2net_custom", "nowhere/net.onnx"])
def test_rembg_model_that_cannot_be_used_lists_those_that_can(name: str) -> None:
    with pytest.raises(UnavailableError, match=r"no such file, and not one of rembg's models: .*isnet-general-use"):
        RembgWeights(name).check()


def test_torchvision_checkpoint_is_downloaded_once_and_held_against_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    good, bad = (tmp_path / f"net_coco-{ending}.pth" for ending in (digest, "00000000"))
    good.write_bytes(b"weights")
    bad.write_bytes(b"weights")
    model = TorchvisionCheckpoint("MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1")
    monkeypatch.setattr(TorchvisionCheckpoint, "_url", lambda self: bad.as_uri())
    with pytest.raises(UnavailableError, match="invalid hash"):
        model.resolve()
    monkeypatch.setattr(TorchvisionCheckpoint, "_url", lambda self: good.as_uri())
    path = model.resolve()
    assert path.read_bytes() == b"weights"
    good.unlink()
    assert model.resolve() == path


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpt4all", None)
    with pytest.raises(
        UnavailableError, match=r'gpt4all is not installed: pip install "augment-backgrounds\[models\]"'
    ):
        Gguf("a").resolve()


def test_slow_library_is_not_waited_for() -> None:
    with pytest.raises(TimeoutError, match=r"no answer in 0\.01 s"):
        weights.within(0.01, lambda: time.sleep(1))
    with pytest.raises(KeyError):
        weights.within(5, lambda: {}["x"])


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in {"cpu", "mps"}
    with pytest.raises(UnavailableError, match='device = "cuda:1": torch sees no such device'):
        pick_device("cuda:1")


def test_dtype_is_full_precision_off_cuda_unless_asked() -> None:
    import torch

    assert pick_dtype("auto", "cpu") is torch.float32
    assert pick_dtype("bfloat16", "cpu") is torch.bfloat16
