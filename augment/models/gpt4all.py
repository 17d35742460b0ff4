"""A GGUF language model in this process, through the gpt4all package."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from augment.errors import UnavailableError
from augment.models.chat import Message
from augment.models.chat_template import prompt_template, read_metadata
from augment.models.quiet import stderr_to_log
from augment.models.weights import PROBE_SECONDS, Weights, within

if TYPE_CHECKING:
    from gpt4all import GPT4All

_PROMPT_BATCH = 128  # tokens of a question that are read at once; gpt4all's default of 8 is slower


@dataclass(frozen=True)
class Gguf(Weights):
    """A model for GPT4All: a GGUF file, or the name of one in `folder`, in GPT4All's own folder, or in its download."""

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

        within(PROBE_SECONDS, GPT4All.list_models)

    @property
    def tried(self) -> str:
        return " and ".join(str(path) for path in self._places())

    @property
    def command(self) -> str:
        folder = f", {self.folder!r}" if self.folder else ""
        return f'python -c "from gpt4all import GPT4All as G; G.retrieve_model({self.model!r}{folder})"'


@dataclass(frozen=True)
class Gpt4AllModel:
    """The settings that every role of such a model has. GPT4All takes no seed.

    - `model`: a GGUF file, or the name of one in `folder`, in GPT4All's own folder, or in its download.
    - `folder`: where that file is, or where to download it to.
    - `max_tokens`: the longest answer, in the model's tokens.
    - `temperature`: 0 gives the same answer every time; higher values do not.
    - `time_limit`: seconds for one answer.
    - `device`: "cpu", "cuda", "kompute", "gpu" or a device's name; None is Metal on Apple silicon, else the CPU.
    - `threads`: on the CPU; None lets GPT4All choose.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"folder", "time_limit", "device", "threads"})

    model: str = "mistral-7b-instruct-v0.1.Q4_0.gguf"
    folder: str | None = None
    max_tokens: Annotated[int, Field(ge=16)] = 96
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    time_limit: Annotated[float, Field(gt=0)] = 120.0
    device: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None

    def weights(self) -> Gguf:
        return Gguf(self.model, self.folder)

    def target(self) -> str:
        return self.device or "GPT4All's choice"

    def check(self) -> None:
        """Raise UnavailableError if gpt4all, the model or the device is missing, or if the file is not GGUF."""
        self.weights().check()
        if (path := self.weights().find()) is not None:
            read_metadata(path)
        check_device(self.device)

    def chat(self, messages: Sequence[Message], seed: int = 0) -> str:
        """The model's answer; see `Chat`. The seed has no effect."""
        system, user = (message["content"] for message in messages)
        template = prompt_template(str(self._path), system)
        model = self._loaded
        started = time.monotonic()
        in_time = True

        def go_on(token: int, text: str) -> bool:
            nonlocal in_time
            in_time = time.monotonic() - started < self.time_limit
            return in_time

        # The template holds the system message too: gpt4all would put none of the model's marks around it.
        with model.chat_session("", template):
            answer = model.generate(
                user, max_tokens=self.max_tokens, temp=self.temperature, n_batch=_PROMPT_BATCH, callback=go_on
            )
        if not in_time:
            # Where it broke off depends on the machine, so the part that is there must not be used.
            raise TimeoutError(f"no whole answer in {self.time_limit:g} s")
        return str(answer)

    @cached_property
    def _path(self) -> Path:
        return self.weights().resolve()

    @cached_property
    def _loaded(self) -> GPT4All:
        path = self._path
        with stderr_to_log("gpt4all") as heard:  # it prints a warning for each CUDA library that it does not find
            try:
                from gpt4all import GPT4All

                model = GPT4All(
                    path.name, model_path=path.parent, allow_download=False, device=self.device, n_threads=self.threads
                )
                # The constructor does not report a model that llama.cpp refuses; this call raises for it.
                model.model.thread_count()
            except Exception as error:  # it raises bare Exceptions, too
                said = next((line for line in heard() if "error" in line.lower()), str(error))
                raise UnavailableError(
                    f"{path}: gpt4all {version('gpt4all')} cannot load it on {self.device or 'its default device'} "
                    f"({said.strip()}); its llama.cpp is of mid-2024: use a GGUF file of that time, or a server"
                ) from error
        return model


def check_device(device: str | None) -> None:
    """Raise UnavailableError if GPT4All would not find the device on this machine."""
    if device in (None, "cpu"):
        return
    way_out = 'use device = "cpu", or leave it out'
    if sys.platform == "darwin":
        if device != "gpu" or platform.machine() != "arm64":
            raise UnavailableError(
                f'device = "{device}": on a Mac GPT4All runs on Apple silicon\'s "gpu"; or {way_out}'
            )
        return
    from gpt4all import GPT4All

    with stderr_to_log("gpt4all"):
        try:
            found = GPT4All.list_gpus()
        except ValueError:  # it finds none
            found = []
    backend = "cuda" if device.partition(":")[0] == "cuda" else "kompute"
    same = [name for name in found if name.startswith(f"{backend}:")]
    is_any = device in ("cuda", "kompute", "gpu", "amd", "nvidia")
    if not (same if is_any else {device, f"{backend}:{device}"} & set(found)):
        hint = 'CUDA needs NVIDIA\'s driver and pip install "gpt4all[cuda]"; ' if backend == "cuda" else ""
        raise UnavailableError(
            f'device = "{device}": GPT4All finds no such device on this machine, only {", ".join(found) or "the CPU"}; '
            f"{hint}{way_out}"
        )
