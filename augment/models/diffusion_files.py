"""Where a diffusion model's files are: a pipeline's folder, a single file, LoRA and embeddings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from augment.errors import UnavailableError
from augment.models.weights import HubWeights, Weights, check_libraries, missing_safetensors, read_json

LIBRARIES = ("diffusers", "transformers")
INDEX = "model_index.json"
SUFFIXES = (".safetensors", ".ckpt")
_VARIANT = re.compile(r"[^.]+\.([A-Za-z]\w*)(?:-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True)
class DiffusersWeights(HubWeights):
    """A pipeline's files; `resolve` gives the folder for `from_pretrained`.

    `variant` chooses among weights of the same model ("fp16"); None takes the plain ones, or the only variant there is.
    `without` names components that will not be loaded.
    """

    variant: str | None = None
    without: tuple[str, ...] = ()

    libraries = LIBRARIES
    index = INDEX

    def variant_in(self, folder: Path) -> str | None:
        """The variant to load from `folder`: the one that is set or, where plain weights are incomplete, the first
        complete one."""
        if self.variant is not None or self._lacks_of(folder, None) is None:
            return self.variant
        found = (_VARIANT.fullmatch(path.name) for path in folder.glob("*/*.safetensors"))
        variants = sorted({match[1] for match in found if match})
        return next((variant for variant in variants if self._lacks_of(folder, variant) is None), None)

    def _lacks(self, folder: Path) -> str | None:
        return self._lacks_of(folder, self.variant_in(folder)) if (folder / self.index).is_file() else self.index

    def _lacks_of(self, folder: Path, variant: str | None) -> str | None:
        components = read_json(folder / self.index)
        of_variant = []
        for name, value in components.items():
            if name in self.without or not isinstance(value, list) or value[0] is None:
                continue
            if not (folder / name).is_dir():
                return f"{name} (safety_checker = false does without)" if name == "safety_checker" else name
            if (folder / name / "config.json").is_file():
                # If a component has no weights of this variant, diffusers takes the plain ones.
                lacks = missing_safetensors(folder / name, variant)
                of_variant.append(lacks is None)
                if lacks and missing_safetensors(folder / name):
                    return f"{name}/{lacks}"
        return f"*.{variant}.safetensors" if of_variant and not any(of_variant) else None

    def _fetch(self) -> Path:
        from diffusers import DiffusionPipeline

        # Unlike a snapshot this leaves out what the pipeline does not read: single-file checkpoints, other variants.
        folder = DiffusionPipeline.download(
            self.model,
            revision=self.revision,
            variant=self.variant or self._variant_on_hub(),
            use_safetensors=True,
            **dict.fromkeys(self.without),
        )
        return Path(folder)

    def _variant_on_hub(self) -> str | None:
        """None if the denoiser has plain weights, else the first of its variants."""
        from huggingface_hub import HfApi

        files = [Path(file) for file in HfApi().list_repo_files(self.model, revision=self.revision)]
        names = [path.name for path in files if path.parent.name in ("unet", "transformer")]
        weights = sorted(name for name in names if name.endswith(".safetensors"))
        matches = [_VARIANT.fullmatch(name) for name in weights]
        return matches[0][1] if matches and matches[0] and all(matches) else None

    @property
    def command(self) -> str:
        options = {"revision": self.revision, "variant": self.variant, "use_safetensors": True}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        return f'python -c "from diffusers import DiffusionPipeline as P; P.download({self.model!r}{given})"'


@dataclass(frozen=True)
class Layout(HubWeights):
    """A pipeline's configuration files without its weights, for a checkpoint that is one file."""

    libraries = LIBRARIES
    index = INDEX
    patterns = ("*.json", "*/*.json", "*/*.txt", "*/*.model")

    def _lacks(self, folder: Path) -> str | None:
        return None if (folder / self.index).is_file() else self.index


@dataclass(frozen=True)
class CheckpointFile(Weights):
    """A whole model in one local .safetensors or .ckpt file, in the layout that its authors trained it in.

    `config` is a pipeline of the same layout, on the hub or a folder; None asks diffusers which one the file's tensors
    belong to. A .ckpt is a pickle: it is read by torch's restricted reader, which refuses anything but tensors.
    """

    model: str
    config: str | None = None

    libraries = LIBRARIES

    def find(self) -> Path | None:
        path = Path(self.model).expanduser()
        if not path.is_file():
            raise UnavailableError(f"{self.model}: there is no such file")
        self.tensors()
        return path

    def check(self) -> None:
        super().check()
        self.layout().check()

    def layout(self) -> Layout:
        """The pipeline that the file belongs to. Raises UnavailableError if diffusers does not recognize it."""
        if self.config is not None:
            return Layout(self.config)
        from diffusers.loaders.single_file_utils import fetch_diffusers_config

        shapes = {name: SimpleNamespace(shape=shape) for name, shape in self.tensors().items()}
        try:
            found: dict[str, str] = fetch_diffusers_config(shapes)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise UnavailableError(f"{self.model}: diffusers does not recognize its layout: set config") from error
        return Layout(found["pretrained_model_name_or_path"])

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name. Raises UnavailableError for a file that is broken or holds code."""
        path = Path(self.model).expanduser()
        if path.suffix == ".safetensors":
            return safetensors_shapes(path)
        import torch

        try:
            state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
            state = state.get("state_dict", state)
            return {name: tuple(value.shape) for name, value in state.items() if hasattr(value, "shape")}
        except Exception as error:  # UnpicklingError, RuntimeError, AttributeError: whatever a foreign file causes
            raise UnavailableError(
                f"{self.model}: this .ckpt is not loaded, because it holds more than tensors, or is broken "
                f"({' '.join(str(error).split())[:120]}); use its .safetensors file"
            ) from error

    def _fetch(self) -> Path:
        raise UnavailableError(f"{self.model}: there is no such file")

    _probe = _fetch  # type: ignore[assignment]

    @property
    def tried(self) -> str:
        return self.model

    @property
    def command(self) -> str:
        return "hf download"


@dataclass(frozen=True)
class AddOnFile(HubWeights):
    """One safetensors file that is laid over a model: a local file, or `file` of a folder or of a hub repository; None
    is the only one there is or, on the hub, the one called `index`."""

    file: str | None = None

    libraries: ClassVar[tuple[str, ...]] = LIBRARIES
    index = "learned_embeds.safetensors"

    def find(self) -> Path | None:
        local = Path(self.model).expanduser()
        if local.is_dir():
            found = sorted(local.glob(self.file or "*.safetensors"))
            if len(found) != 1:
                raise UnavailableError(f"{local} holds {len(found)} *.safetensors: name one with `file`")
            local = found[0]
        if local.is_file():
            safetensors_shapes(local)
            return local
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.model):
            raise UnavailableError(f"{self.model}: there is no such file, and it is not a name on the hub")
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.model, self.file or self.index, revision=self.revision)
        return Path(cached) if isinstance(cached, str) else None

    def _lacks(self, folder: Path) -> str | None:
        return None

    def _fetch(self) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.model, self.file or self.index, revision=self.revision))

    @property
    def command(self) -> str:
        return f"hf download {self.model} {self.file or self.index}"


@dataclass(frozen=True)
class LoraFile(AddOnFile):
    """The file of a LoRA."""

    libraries: ClassVar[tuple[str, ...]] = (*LIBRARIES, "peft")
    index = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Lora:
    """A low-rank change of the model (Hu et al. 2021), a table `[[generate.lora]]` each.

    - `model`: a .safetensors file, a folder with one, or a hub repository; `file` names one of several.
    - `weight`: how much of it is added.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str
    file: str | None = None
    weight: Annotated[float, Field(ge=-4, le=4)] = 1.0
    revision: str | None = None

    def weights(self) -> AddOnFile:
        return LoraFile(self.model, self.revision, self.file)


@dataclass(frozen=True)
class Embedding:
    """A word that the text encoder has learned (textual inversion, Gal et al. 2022); prompts use it by `token`, for
    example in `refine.suffix` or `refine.negative`.

    - `model`: a .safetensors file, a folder with one, or a hub repository; `file` names one of several.
    - `token`: None is the one stored in the file.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str
    token: str | None = None
    file: str | None = None
    revision: str | None = None

    def weights(self) -> AddOnFile:
        return AddOnFile(self.model, self.revision, self.file)


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, from its header. Raises UnavailableError if it is broken."""
    check_libraries(["safetensors"])
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors has an exception of its own, without a narrower base
        raise UnavailableError(f"{path} is not a whole safetensors file: {error}") from error
