"""Where models come from: a local path, then this machine's caches, then the network, in that order and nowhere else.

Each kind of weights is a small class that says where its files lie (`find`, which only looks), whether they could be
had (`check`), and brings them here (`resolve`). HF_HUB_OFFLINE=1 keeps every one of them off the network.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import socket
import sys
import threading
import types
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from augment.errors import WeightsError

DtypeName: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]

_PROBE_SECONDS = 5.0  # a server that has not answered by then is taken as out of reach
_MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}


def offline() -> bool:
    """Whether the environment forbids to fetch weights: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def check_libraries(names: Iterable[str], extra: str = "models") -> None:
    """Raise WeightsError where one of these top-level packages is not installed; imports none of them."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise WeightsError(f'{name} is not installed: pip install "augment-backgrounds[{extra}]"')


def pick_device(device: str = "auto") -> str:
    """The torch device to use: "auto" is the first of "cuda", "mps" and "cpu" that is there.

    Raises WeightsError where another was asked for and torch does not see it.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in there.items() if found)
    if not there.get(device.partition(":")[0], False):
        raise WeightsError(
            f'device = "{device}": torch sees no such device on this machine; "auto" takes the best it sees'
        )
    return device


def pick_dtype(dtype: DtypeName, device: str) -> Any:
    """The torch dtype for a model on `device`: "auto" is bfloat16 or, on an older GPU, float16; float32 off CUDA."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Weights(ABC):
    """One model's files. Subclasses are frozen dataclasses, cheap to build and to compare."""

    model: str  # as the recipe names it
    libraries: ClassVar[tuple[str, ...]] = ()  # top-level packages without which the model cannot be used

    @abstractmethod
    def find(self) -> Path | None:
        """The file or folder on this machine, complete, or None; asks no network and loads nothing.

        Raises WeightsError where the library is missing, or where what lies at the named path cannot be used.
        """

    @abstractmethod
    def _fetch(self) -> Path:
        """Download; any exception means that it could not be had."""

    @abstractmethod
    def _probe(self) -> None:
        """Ask the server, briefly, whether the model is there; any exception means that it is not."""

    @property
    @abstractmethod
    def tried(self) -> str:
        """Where `find` looked."""

    @property
    @abstractmethod
    def command(self) -> str:
        """The shell command that fetches the model."""

    def check(self) -> None:
        """Raise WeightsError where the model is neither here nor within reach; downloads nothing."""
        check_libraries(self.libraries)
        if self.find() is None:
            self._online(self._probe)

    def resolve(self) -> Path:
        """The file or folder, downloaded where it is not here. Raises WeightsError where it cannot be had."""
        check_libraries(self.libraries)
        found = self.find()
        if found is None:
            self._online(self._probe)  # so that a network that swallows packets costs seconds, not minutes of retries
            self._online(self._fetch)
            found = self.find()
        if found is None:
            raise self._missing("what was downloaded is incomplete")
        return found

    def _online(self, ask: Any) -> None:
        if offline():
            raise self._missing("HF_HUB_OFFLINE forbids a download")
        try:
            ask()
        except Exception as error:  # a different set from each HTTP library
            raise self._missing(f"cannot be downloaded ({_reason(error)})") from error

    def _missing(self, why: str) -> WeightsError:
        return WeightsError(
            f"{self.model}: not on this machine (looked in {self.tried}), and {why}; "
            f"where there is a network, fetch it with: {self.command}"
        )


@dataclass(frozen=True)
class _Hub(Weights):
    """A model of the Hugging Face hub, or a folder of the same layout; safetensors weights only.

    `revision` is a branch, a tag or a commit; None is the hub's main branch.
    """

    model: str
    revision: str | None = None

    index: ClassVar[str]  # the file that every such folder has
    patterns: ClassVar[tuple[str, ...]]  # what to download

    def find(self) -> Path | None:
        if self.model in _MOVED:
            raise WeightsError(f"{self.model} is gone from the hub: the recipe must name {_MOVED[self.model]}")
        local = Path(self.model).expanduser()
        if local.exists():
            if lacks := self._lacks(local):
                raise WeightsError(
                    f"{local} is not a {self.libraries[0]} model that augment can load: it has no {lacks}"
                )
            return local
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", self.model):
            raise WeightsError(f"{self.model}: there is no such folder, and it is not a name on the hub")
        check_libraries(["huggingface_hub"])
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.model, self.index, revision=self.revision)
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
        return None if self._lacks(folder) else folder

    @abstractmethod
    def _lacks(self, folder: Path) -> str | None:
        """The first file that a usable `folder` would have and this one has not."""

    def _fetch(self) -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(self.model, revision=self.revision, allow_patterns=list(self.patterns)))

    def _probe(self) -> None:
        from huggingface_hub import HfApi

        HfApi().model_info(self.model, revision=self.revision, timeout=_PROBE_SECONDS)

    @property
    def tried(self) -> str:
        from huggingface_hub.constants import HF_HUB_CACHE

        return f"the folder {self.model} and the hub cache {HF_HUB_CACHE}"

    @property
    def command(self) -> str:
        return f"hf download {self.model}" + (f" --revision {self.revision}" if self.revision else "")


@dataclass(frozen=True)
class TransformersModel(_Hub):
    """A transformers model with its processor; `resolve` gives the folder for `from_pretrained`."""

    libraries = ("transformers",)
    index = "config.json"
    patterns = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors")

    def _lacks(self, folder: Path) -> str | None:
        return _weights_lacking(folder, None) if (folder / self.index).is_file() else self.index


@dataclass(frozen=True)
class DiffusersPipeline(_Hub):
    """A diffusers pipeline; `resolve` gives the folder for `from_pretrained`.

    `variant` chooses among weights of the same model ("fp16"); `without` names components that will not be loaded.
    """

    variant: str | None = None
    without: tuple[str, ...] = ()

    libraries = ("diffusers", "transformers")
    index = "model_index.json"

    def _lacks(self, folder: Path) -> str | None:
        if not (folder / self.index).is_file():
            return self.index
        components: dict[str, Any] = json.loads((folder / self.index).read_bytes())
        of_variant = []
        for name, value in components.items():
            if name in self.without or not isinstance(value, list) or value[0] is None:
                continue
            if not (folder / name).is_dir():
                return name
            if (folder / name / "config.json").is_file():
                # Where a component has no weights of this variant, diffusers takes the plain ones.
                lacks = _weights_lacking(folder / name, self.variant)
                of_variant.append(lacks is None)
                if lacks and _weights_lacking(folder / name, None):
                    return f"{name}/{lacks}"
        return f"*.{self.variant}.safetensors" if of_variant and not any(of_variant) else None

    def _fetch(self) -> Path:
        from diffusers import DiffusionPipeline

        # Unlike a snapshot this leaves out what the pipeline does not read: single-file checkpoints, other variants.
        options = dict.fromkeys(self.without)
        folder = DiffusionPipeline.download(
            self.model, revision=self.revision, variant=self.variant, use_safetensors=True, **options
        )
        return Path(folder)

    @property
    def command(self) -> str:
        options = {"revision": self.revision, "variant": self.variant, "use_safetensors": True}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        return f'python -c "from diffusers import DiffusionPipeline as P; P.download({self.model!r}{given})"'


def _weights_lacking(folder: Path, variant: str | None) -> str | None:
    """The name of a safetensors file that `folder` should have and has not; weights may be split over several."""
    ending = f".{variant}" if variant else ""
    for index in folder.glob(f"*.safetensors.index{ending}.json"):
        files = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
        return next((name for name in sorted(files) if not (folder / name).is_file()), None)
    whole = [path for path in folder.glob(f"*{ending}.safetensors") if bool(ending) or path.name.count(".") == 1]
    return None if whole else f"*{ending}.safetensors"


@dataclass(frozen=True)
class Gguf(Weights):
    """A model for GPT4All: a GGUF file, or the name of one in `folder`, in GPT4All's own folder or in its download."""

    model: str
    folder: str | None = None

    libraries = ("gpt4all",)

    def find(self) -> Path | None:
        return next((path for path in self._places() if path.is_file()), None)

    def _places(self) -> list[Path]:
        name = self.model if self.model.endswith(".gguf") else f"{self.model}.gguf"
        folders = [Path(self.folder).expanduser()] if self.folder else []
        folders.append(Path.home() / ".cache" / "gpt4all")  # gpt4all.DEFAULT_MODEL_DIRECTORY, without the import
        return [Path(self.model).expanduser(), *(folder / name for folder in folders)]

    def _fetch(self) -> Path:
        from gpt4all import GPT4All

        folder = Path(self.folder).expanduser() if self.folder else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        return Path(GPT4All.retrieve_model(self.model, model_path=folder, allow_download=True)["path"])

    def _probe(self) -> None:
        from gpt4all import GPT4All

        _within(_PROBE_SECONDS, GPT4All.list_models)

    @property
    def tried(self) -> str:
        return " and ".join(str(path) for path in self._places())

    @property
    def command(self) -> str:
        folder = f", {self.folder!r}" if self.folder else ""
        return f'python -c "from gpt4all import GPT4All as G; G.retrieve_model({self.model!r}{folder})"'


@dataclass(frozen=True)
class RembgModel(Weights):
    """The ONNX file of a model that rembg knows by name, or a local ONNX file."""

    model: str

    libraries = ("rembg", "onnxruntime")

    def find(self) -> Path | None:
        if (local := Path(self.model).expanduser()).is_file():
            return local
        found = self._session().resolve_existing(f"{self.model}.onnx")
        return Path(found) if found else None

    def _session(self) -> Any:
        sessions = rembg_sessions()
        # The custom ones are reached by a path, SAM wants points, and the remote ones would send the images away.
        usable = {
            name: session
            for name, session in sessions.items()
            if session.is_local() and name != "sam" and not name.endswith("_custom")
        }
        if self.model not in usable:
            raise WeightsError(
                f"{self.model}: no such file, and not one of rembg's models: {', '.join(sorted(usable))}"
            )
        return usable[self.model]

    def _fetch(self) -> Path:
        return Path(self._session().download_models())

    def _probe(self) -> None:
        """rembg keeps its addresses to itself; it gives up on a silent server after half a minute."""

    @property
    def tried(self) -> str:
        session = self._session()
        return f"{session.model_dir()} and {session.legacy_home()}"

    @property
    def command(self) -> str:
        return f"python -c \"import rembg; rembg.new_session('{self.model}')\""


@lru_cache(maxsize=1)
def rembg_sessions() -> dict[str, Any]:
    """rembg's session classes by model name, without the rest of rembg. Raises WeightsError where a library is missing.

    `import rembg` itself brings in pymatting, for which numba compiles half a minute the first time, and it ends the
    process where onnxruntime is missing. The classes need neither: they are imported under a stand-in for the package.
    """
    check_libraries(RembgModel.libraries)
    if "rembg" not in sys.modules:
        spec = importlib.util.find_spec("rembg")
        assert spec is not None
        bare = types.ModuleType("rembg")
        bare.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["rembg"] = bare
        try:
            importlib.import_module("rembg.sessions")
        finally:
            del sys.modules["rembg"]  # so that `import rembg` elsewhere gives the real one
    sessions: dict[str, Any] = sys.modules["rembg.sessions"].sessions
    return sessions


@dataclass(frozen=True)
class TorchvisionCheckpoint(Weights):
    """A local checkpoint file, or the name of torchvision's own, "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"."""

    model: str

    libraries = ("torchvision",)

    def find(self) -> Path | None:
        if (local := Path(self.model).expanduser()).is_file():
            return local
        cached = self._cached()
        return cached if cached.is_file() else None

    def _url(self) -> str:
        from torchvision.models import get_weight

        try:
            return str(get_weight(self.model).url)
        except (ValueError, KeyError) as error:
            raise WeightsError(
                f"{self.model}: there is no such file, and torchvision has no weights of that name"
            ) from error

    def _cached(self) -> Path:
        import torch

        return Path(torch.hub.get_dir(), "checkpoints", self._url().rpartition("/")[2])

    def _fetch(self) -> Path:
        import torch

        path = self._cached()
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision's file names end in the start of their SHA-256, which the download is held against.
        digest = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(self._url(), str(path), hash_prefix=digest, progress=False)
        return path

    def _probe(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self._url(), method="HEAD"), timeout=_PROBE_SECONDS).close()

    @property
    def tried(self) -> str:
        return str(self._cached())

    @property
    def command(self) -> str:
        return f"python -c \"from torchvision.models import get_weight as g; g('{self.model}').get_state_dict()\""


def _reason(error: BaseException) -> str:
    """Why a download failed, in a line: HTTP libraries wrap "Name or service not known" in several of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (socket.gaierror, ConnectionError, TimeoutError)) and str(cause):
            return str(cause).partition("\n")[0]
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _within(seconds: float, ask: Any) -> None:
    """Call `ask` and pass on its exception, or raise TimeoutError; for libraries that would wait for ever."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:g} s")
    if raised:
        raise raised[0]
