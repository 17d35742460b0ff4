"""Where models come from: a local path, then this machine's caches, then the network, in that order and nowhere else.

Each kind of weights is a small class beside its client. It says where its files are (`find`, which only
looks) and whether they could be fetched (`check`), and it fetches them (`resolve`). HF_HUB_OFFLINE=1 keeps all of them
off the network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from augment.errors import UnavailableError
from augment.files import check_file

if TYPE_CHECKING:
    import torch

DtypeName: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]

PROBE_SECONDS = 5.0  # a server that has not answered by then is taken to be out of reach
_MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}


def offline() -> bool:
    """Whether the environment forbids downloads: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def check_libraries(names: Iterable[str], extra: str = "models") -> None:
    """Raise UnavailableError if one of these top-level packages is not installed; imports none of them."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UnavailableError(f'{name} is not installed: pip install "augment-backgrounds[{extra}]"')


def pick_device(device: str = "auto") -> str:
    """The torch device to use: "auto" is the first of "cuda", "mps" and "cpu" that this machine has.

    Raises UnavailableError if torch does not see the one that was asked for.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in available.items() if found)
    if not available.get(device.partition(":")[0], False):
        raise UnavailableError(
            f'device = "{device}": torch sees no such device on this machine; "auto" takes the best it sees'
        )
    return device


def pick_dtype(dtype: DtypeName, device: str) -> torch.dtype:
    """The torch dtype for a model on `device`: "auto" is bfloat16 or, on an older GPU, float16; float32 off CUDA."""
    import torch

    if dtype != "auto":
        named: torch.dtype = getattr(torch, dtype)
        return named
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Weights(ABC):
    """One model's files. Subclasses are frozen dataclasses, cheap to build and to compare."""

    model: str  # as the recipe names it
    libraries: ClassVar[tuple[str, ...]] = ()  # top-level packages without which the model cannot be used

    @abstractmethod
    def find(self) -> Path | None:
        """The file or folder on this machine, if it is complete; uses no network and loads nothing.

        Raises UnavailableError if the library is missing, or if what is at the named path cannot be used.
        """

    @abstractmethod
    def _fetch(self) -> Path:
        """Download it. Any exception means that it cannot be had."""

    @abstractmethod
    def _probe(self) -> None:
        """Ask the server, briefly, whether the model is there. Any exception means that it is not."""

    @property
    @abstractmethod
    def tried(self) -> str:
        """Where `find` looked."""

    @property
    @abstractmethod
    def command(self) -> str:
        """The shell command that fetches the model."""

    def check(self) -> None:
        """Raise UnavailableError if the model is neither on this machine nor within reach; downloads nothing."""
        check_libraries(self.libraries)
        if self.find() is None:
            self._online(self._probe)

    def resolve(self) -> Path:
        """The file or folder, downloaded if it is not on this machine. Raises UnavailableError if that fails."""
        check_libraries(self.libraries)
        found = self.find()
        if found is None:
            self._online(self._probe)  # so that a network that swallows packets costs seconds, not minutes of retries
            self._online(self._fetch)
            found = self.find()
        if found is None:
            raise self._missing("what was downloaded is incomplete")
        return found

    def _online(self, ask: Callable[[], object]) -> None:
        if offline():
            raise self._missing("HF_HUB_OFFLINE forbids a download")
        try:
            ask()
        except UnavailableError:
            raise
        except Exception as error:  # each HTTP library has its own
            raise self._missing(f"cannot be downloaded ({_reason(error)})") from error

    def _missing(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.model}: not on this machine (looked in {self.tried}), and {why}; "
            f"on a machine with a network, fetch it with: {self.command}"
        )


@dataclass(frozen=True)
class HubWeights(Weights):
    """A model of the Hugging Face hub, or a folder of the same layout; safetensors weights only.

    `revision` is a branch, a tag or a commit; None is the hub's main branch.
    """

    model: str
    revision: str | None = None

    index: ClassVar[str]  # the file that every such folder has
    patterns: ClassVar[tuple[str, ...]]  # what to download

    def find(self) -> Path | None:
        if self.model in _MOVED:
            raise UnavailableError(f"{self.model} is gone from the hub: the recipe must name {_MOVED[self.model]}")
        local = Path(self.model).expanduser()
        if local.exists():
            if lacks := self._lacks(local):
                raise UnavailableError(
                    f"{local} is not a {self.libraries[0]} model that augment can load: it has no {lacks}"
                )
            return local
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", self.model):
            raise UnavailableError(f"{self.model}: there is no such folder, and it is not a name on the hub")
        check_libraries(["huggingface_hub"])
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.model, self.index, revision=self.revision)
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
        return None if self._lacks(folder) else folder

    @abstractmethod
    def _lacks(self, folder: Path) -> str | None:
        """The first file that `folder` needs to be usable and does not have."""

    def _fetch(self) -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(self.model, revision=self.revision, allow_patterns=list(self.patterns)))

    def _probe(self) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        api = HfApi()
        login = "log in with `hf auth login`, or set HF_TOKEN"
        try:
            api.model_info(self.model, revision=self.revision, timeout=PROBE_SECONDS)
            within(PROBE_SECONDS, lambda: api.auth_check(self.model))  # anyone may see a gated model's page
        except GatedRepoError as error:
            page = f"{api.endpoint}/{self.model}"
            raise UnavailableError(
                f"{self.model} is gated, and this account may not download it: accept its terms at {page}, and {login}"
            ) from error
        except RepositoryNotFoundError as error:
            raise self._missing(f"the hub has no such model, or it is private ({login})") from error

    @property
    def tried(self) -> str:
        from huggingface_hub.constants import HF_HUB_CACHE

        return f"the folder {self.model} and the hub cache {HF_HUB_CACHE}"

    @property
    def command(self) -> str:
        return f"hf download {self.model}" + (f" --revision {self.revision}" if self.revision else "")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UnavailableError naming the file if it does not."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UnavailableError(f"{path} is not a JSON object")
    return found


def read_text(path: str) -> str:
    """The text of a file of the user's. Raises UnavailableError naming the file."""
    try:
        file = Path(path).expanduser()
        check_file(file)
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnavailableError(f"{path}: not text in UTF-8: {error}") from error


def missing_safetensors(folder: Path, variant: str | None = None) -> str | None:
    """The name of a safetensors file that `folder` needs and does not have; weights may be split over several."""
    ending = f".{variant}" if variant else ""
    for index in folder.glob(f"*.safetensors.index{ending}.json"):
        files = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
        return next((name for name in sorted(files) if not (folder / name).is_file()), None)
    whole = [path for path in folder.glob(f"*{ending}.safetensors") if bool(ending) or path.name.count(".") == 1]
    return None if whole else f"*{ending}.safetensors"


def within(seconds: float, ask: Callable[[], object]) -> None:
    """Call `ask` and pass on its exception, or raise TimeoutError; for libraries that would wait forever."""
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


def _reason(error: BaseException) -> str:
    """Why a download failed, in one line: HTTP libraries wrap "Name or service not known" in their own exceptions."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (socket.gaierror, ConnectionError, TimeoutError)) and str(cause):
            return str(cause).partition("\n")[0]
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
