"""Image-to-text models of transformers: GIT, BLIP, or a vision language model that is chatted with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from PIL import Image as PILImage
from pydantic import Field

from augment.artifacts import Image
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.batches import free_memory, in_batches
from augment.models.quiet import quiet
from augment.models.weights import (
    DtypeName,
    HubWeights,
    check_libraries,
    missing_safetensors,
    pick_device,
    pick_dtype,
    read_json,
)


@dataclass(frozen=True)
class TransformersWeights(HubWeights):
    """A transformers model with its processor; `resolve` gives the folder for `from_pretrained`."""

    libraries = ("transformers",)
    index = "config.json"
    patterns = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors")

    def load(self, processor: str, network: str, device: str, dtype: DtypeName) -> tuple[Any, Any]:
        """An instance of each of two classes of transformers: the processor, and the model on its device."""
        folder = self.resolve()
        import transformers

        options = {"local_files_only": True, "trust_remote_code": False}
        with quiet("transformers"):
            try:
                prepares = getattr(transformers, processor).from_pretrained(folder, **options)
                model = getattr(transformers, network).from_pretrained(
                    folder, dtype=pick_dtype(dtype, device), use_safetensors=True, **options
                )
            except Exception as error:  # those of safetensors and tokenizers derive from nothing narrower
                raise UnavailableError(f"{self.model}: transformers cannot load it from {folder}: {error}") from error
        return prepares, model.to(device).eval()

    def _lacks(self, folder: Path) -> str | None:
        return missing_safetensors(folder) if (folder / self.index).is_file() else self.index


# What models without a chat template are asked for a caption, by their `model_type`: their own words for that task.
_TASKS = {
    "florence2": "<MORE_DETAILED_CAPTION>",
    "paligemma": "caption en",
    "instructblip": "Describe the image in one sentence.",
    "kosmos-2": "<grounding>An image of",
}
_QUESTION = "Describe this picture in one sentence: what it shows, its surroundings and its light."
_WITHOUT_TEXT = {"git", "blip", "blip-2", "vision-encoder-decoder", "pix2struct", "donut-swin"}
_PLACE_THEIR_IMAGES = {*_TASKS, *_WITHOUT_TEXT}  # others need the image's token in the text
# Packages that only one processor imports, and only when it is loaded.
_PACKAGES = {"SmolVLMProcessor": "num2words"}


@dataclass(frozen=True)
class ImageToTextModel:
    """A model that `AutoModelForImageTextToText` loads from safetensors, with no remote code.

    A model whose processor has a chat template is asked a question about each image, without thinking aloud if it
    would; GIT and BLIP take only the image; others take a task in words of their own. Decoding is greedy: an image has
    one answer, except for what rounding may do in half precision.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) of its files, None for main.
    - `prompt`: the question or the task; None is a plain question, and the model's own task for a caption where one is
      known (Florence-2: "<MORE_DETAILED_CAPTION>", PaliGemma: "caption en").
    - `max_new_tokens`: the longest answer, in the model's tokens.
    - `device`: as torch names it, or "auto"; `dtype`: "auto" is half precision on CUDA and float32 elsewhere.
    - `batch_size`: images at once; halved while memory does not suffice.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"device", "dtype", "batch_size"})
    table: ClassVar[str]  # where its settings are in a recipe, for messages

    model: str
    revision: str | None = None
    prompt: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 120
    device: str = "auto"
    dtype: DtypeName = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 8

    def weights(self) -> TransformersWeights:
        return TransformersWeights(self.model, self.revision)

    def target(self) -> str:
        return pick_device(self.device)

    def check(self) -> None:
        """Raise UnavailableError if transformers, a package that the model needs, the model or the device is missing,
        RecipeError if the model needs a prompt; loads nothing."""
        self.target()
        self.weights().check()
        folder = self.weights().find()
        if folder is None:
            return
        processor = _read(folder, "processor_config.json") or _read(folder, "preprocessor_config.json")
        if (name := processor.get("processor_class")) in _PACKAGES:
            check_libraries([_PACKAGES[name]])
        kind = str(_read(folder, "config.json").get("model_type"))
        silent = self.prompt is None and kind not in _PLACE_THEIR_IMAGES
        if silent and not _has_chat_template(folder):
            raise RecipeError(
                f"{self.table}.prompt: {self.model} ({kind}) has no chat template and needs a text beside the image: "
                "set the one that its model card gives for captions"
            )

    def unload(self) -> None:
        for loaded in ("_loaded", "_fits"):
            self.__dict__.pop(loaded, None)
        free_memory()

    @property
    def is_chatted_with(self) -> bool:
        """Whether the model has a chat template; loads it."""
        processor, _ = self._loaded
        return bool(getattr(processor, "chat_template", None))

    def answer(self, images: Sequence[Image]) -> list[str | ItemFailed]:
        """`(H, W, 3)` uint8 RGB images to the model's own words. Raises UnavailableError if it cannot be loaded."""
        too_large = f"no memory for one image with {self.model}"
        answers, self._fits[0] = in_batches(images, self._fits[0], self._answer_batch, too_large)
        return answers

    @cached_property
    def _fits(self) -> list[int]:
        """The batch size that memory has allowed so far, as the only element of a list."""
        return [self.batch_size]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The processor and the model, on its device."""
        names = "AutoProcessor", "AutoModelForImageTextToText"
        processor, model = self.weights().load(*names, self.target(), self.dtype)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"  # the answers of a batch must all start right after their question
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
        return processor, model

    def _answer_batch(self, images: Sequence[Image]) -> list[str]:
        import torch

        processor, model = self._loaded
        with quiet("transformers"), torch.inference_mode():
            inputs = self._inputs([PILImage.fromarray(image) for image in images])
            longest = min(self.max_new_tokens, _positions_left(model, inputs))
            tokens = model.generate(**inputs, max_new_tokens=longest, do_sample=False, num_beams=1)
            # Models differ in whether they repeat what they were asked.
            asked = inputs.get("input_ids")
            if asked is not None and torch.equal(tokens[:, : asked.shape[1]], asked):
                tokens = tokens[:, asked.shape[1] :]
            return [str(text) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, pictures: Sequence[PILImage.Image]) -> dict[str, Any]:
        """Everything that the processor makes of the images and the prompt, on the model's device."""
        processor, model = self._loaded
        if self.is_chatted_with:
            made = processor.apply_chat_template(
                [self._message(picture) for picture in pictures],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
                enable_thinking=False,  # of templates that know it, such as Qwen's
            )
        else:
            text = self._text()
            texts = {} if text is None else {"text": [text] * len(pictures), "padding": True}
            made = processor(images=list(pictures), return_tensors="pt", **texts)
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            if hasattr(value, "is_floating_point")
            else value
            for name, value in made.items()
        }
        if model.config.model_type == "git" and "input_ids" in inputs:
            ended = inputs["input_ids"][0, -1] == processor.tokenizer.sep_token_id
            if ended:  # it goes on where the text ends
                inputs |= {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}
        known = inspect.signature(model.forward).parameters
        return {name: value for name, value in inputs.items() if name in known or not name.endswith("token_type_ids")}

    def _text(self) -> str | None:
        """The text beside the image for a model without a chat template."""
        processor, model = self._loaded
        kind = model.config.model_type
        text = _TASKS.get(kind) if self.prompt is None else self.prompt
        mark = getattr(processor, "image_token", None)
        if text is None or kind in _PLACE_THEIR_IMAGES or mark is None or str(mark) in text:
            return text
        return f"{mark}\n{text}"

    def _message(self, picture: PILImage.Image) -> list[dict[str, Any]]:
        question = _QUESTION if self.prompt is None else self.prompt
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        return [{"role": "user", "content": content}]


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _has_chat_template(folder: Path) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    settings = ("processor_config.json", "tokenizer_config.json")
    return any((folder / name).is_file() for name in files) or any(
        _read(folder, name).get("chat_template") for name in settings
    )


def _positions_left(model: Any, inputs: Mapping[str, Any]) -> int:
    """How many tokens a model with learned positions, such as GIT, can write; it fails beyond its last position."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    asked = inputs.get("input_ids")
    return max(1, known - (1 if asked is None else int(asked.shape[1])) - 1)
