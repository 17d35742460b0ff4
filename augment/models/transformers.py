"""Image-to-text models of transformers: GIT, BLIP, or a vision language model that is chatted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from PIL import Image as PILImage
from pydantic import Field

from augment.artifacts import Image
from augment.errors import ItemFailed, UnavailableError
from augment.models.batches import free_memory, in_batches
from augment.models.quiet import quiet
from augment.models.weights import DtypeName, HubWeights, missing_safetensors, pick_device, pick_dtype


@dataclass(frozen=True)
class TransformersWeights(HubWeights):
    """A transformers model with its processor; `resolve` gives the folder for `from_pretrained`."""

    libraries = ("transformers",)
    index = "config.json"
    patterns = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors")

    def _lacks(self, folder: Path) -> str | None:
        return missing_safetensors(folder) if (folder / self.index).is_file() else self.index


@dataclass(frozen=True)
class ImageToTextModel:
    """A model that `AutoModelForImageTextToText` loads from safetensors, with no remote code.

    A model whose processor has a chat template is asked `question` about each image; any other gets only the image, as
    GIT and BLIP take it. Decoding is greedy: an image has one answer, except for what rounding may do in half
    precision.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) of its files, None for main.
    - `question`: what a model with a chat template is asked.
    - `max_new_tokens`: the longest answer, in the model's tokens.
    - `device`: as torch names it, or "auto"; `dtype`: "auto" is half precision on CUDA and float32 elsewhere.
    - `batch_size`: images at once; halved while memory does not suffice.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"device", "dtype", "batch_size"})

    model: str
    revision: str | None = None
    question: str = ""
    max_new_tokens: Annotated[int, Field(ge=1)] = 40
    device: str = "auto"
    dtype: DtypeName = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 8

    def weights(self) -> TransformersWeights:
        return TransformersWeights(self.model, self.revision)

    def target(self) -> str:
        return pick_device(self.device)

    def check(self) -> None:
        """Raise UnavailableError if transformers, the model or the device is missing; loads nothing."""
        self.target()
        self.weights().check()

    def unload(self) -> None:
        for loaded in ("_loaded", "_fits"):
            self.__dict__.pop(loaded, None)
        free_memory()

    @property
    def is_chatted_with(self) -> bool:
        """Whether the model is asked `question`; loads it."""
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
        device = self.target()
        folder = self.weights().resolve()
        import transformers

        library: Any = transformers  # its lazy module has no types for these
        options = {"local_files_only": True, "trust_remote_code": False}
        with quiet("transformers"):
            try:
                processor = library.AutoProcessor.from_pretrained(folder, **options)
                model = library.AutoModelForImageTextToText.from_pretrained(
                    folder, dtype=pick_dtype(self.dtype, device), use_safetensors=True, **options
                )
            except Exception as error:  # those of safetensors and tokenizers derive from nothing narrower
                raise UnavailableError(f"{self.model}: transformers cannot load it from {folder}: {error}") from error
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"  # the answers of a batch must all start right after their question
        return processor, model.to(device).eval()

    def _answer_batch(self, images: Sequence[Image]) -> list[str]:
        import torch

        processor, model = self._loaded
        pictures = [PILImage.fromarray(image) for image in images]
        if self.is_chatted_with:
            inputs = processor.apply_chat_template(
                [self._message(picture) for picture in pictures],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        else:
            inputs = {"pixel_values": processor(images=pictures, return_tensors="pt")["pixel_values"]}
        moved = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            tokens = model.generate(**moved, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1)
        asked = moved["input_ids"].shape[1] if self.is_chatted_with else 0
        return [str(text) for text in processor.batch_decode(tokens[:, asked:], skip_special_tokens=True)]

    def _message(self, picture: PILImage.Image) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": self.question}]
        return [{"role": "user", "content": content}]
