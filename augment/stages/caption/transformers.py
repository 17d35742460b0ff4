"""Captions by any image-to-text model of transformers: GIT, BLIP, or a vision language model that is chatted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from PIL import Image as PILImage
from pydantic import Field

from augment.artifacts import Image
from augment.errors import ItemFailed, WeightsError
from augment.stages.base import Stage
from augment.stages.diffusion import free_memory, in_batches
from augment.stages.refine.answers import clean_answer
from augment.weights import DtypeName, TransformersModel, pick_dtype


@dataclass(frozen=True)
class Transformers(Stage):
    """What a plate shows, by a model that `AutoModelForImageTextToText` loads from safetensors, with no remote code.

    A model whose processor has a chat template is asked `question` about each plate; any other gets the plate alone, as
    GIT and BLIP take it. Decoding is greedy: a plate has one caption, but for what rounding may do in half precision.

    - `model`: its name on the hub, or a folder; `revision` (branch, tag or commit) of its files, main where left out.
    - `question`: what a model that is chatted with is asked.
    - `max_new_tokens`: longest caption, in the model's tokens.
    - `device`: as torch names it, or "auto"; `dtype`: "auto" is half precision on CUDA and float32 elsewhere.
    - `batch_size`: plates at once; halved for as long as memory does not suffice.
    """

    backend: ClassVar[str] = "transformers"
    execution_only: ClassVar[frozenset[str]] = frozenset({"device", "dtype", "batch_size"})

    model: str = "microsoft/git-large-coco"
    revision: str | None = None
    question: str = "Describe the scenery of this picture in one sentence: the place, the ground, the light."
    max_new_tokens: Annotated[int, Field(ge=1)] = 40
    device: str = "auto"
    dtype: DtypeName = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 8

    def __call__(self, plates: Sequence[Image]) -> list[str | ItemFailed]:
        """`(H, W, 3)` uint8 RGB plates to a caption each. Raises WeightsError where the model cannot be loaded."""
        too_large = f"caption.model: no memory for one plate with {self.model}"
        captions, self._fits[0] = in_batches(plates, self._fits[0], self._captions, too_large)
        return captions

    def weights(self) -> TransformersModel:
        return TransformersModel(self.model, self.revision)

    def check(self) -> None:
        self.where()
        self.weights().check()

    def unload(self) -> None:
        super().unload()
        free_memory()

    @cached_property
    def _fits(self) -> list[int]:
        """The batch size that memory has allowed so far, alone in a list."""
        return [self.batch_size]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The processor and the model, on its device."""
        import transformers
        import transformers.utils.logging

        library: Any = transformers
        logging = library.utils.logging
        device = self.where()
        folder = self.weights().resolve()
        options = {"local_files_only": True, "trust_remote_code": False}
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            processor = library.AutoProcessor.from_pretrained(folder, **options)
            model = library.AutoModelForImageTextToText.from_pretrained(
                folder, dtype=pick_dtype(self.dtype, device), use_safetensors=True, **options
            )
        except Exception as error:  # those of safetensors and tokenizers derive from nothing narrower
            raise WeightsError(f"{self.model}: transformers cannot load it from {folder}: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"  # answers of a batch must all start right after their question
        return processor, model.to(device).eval()

    def _captions(self, plates: Sequence[Image]) -> list[str | ItemFailed]:
        import torch

        processor, model = self._loaded
        pictures = [PILImage.fromarray(plate) for plate in plates]
        chat = getattr(processor, "chat_template", None)
        if chat:
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
        asked = moved["input_ids"].shape[1] if chat else 0
        texts = processor.batch_decode(tokens[:, asked:], skip_special_tokens=True)
        captions = [clean_answer(text) if chat else " ".join(text.split()) for text in texts]
        return [caption or ItemFailed(f"{self.model} said nothing about the plate") for caption in captions]

    def _message(self, picture: PILImage.Image) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": self.question}]
        return [{"role": "user", "content": content}]
