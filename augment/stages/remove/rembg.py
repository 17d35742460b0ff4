"""Mattes by any segmentation network that rembg knows, or by a local ONNX file of the same families."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from augment.artifacts import Image, Matte
from augment.models.onnxruntime import CUDA, pick_providers
from augment.models.rembg import AlphaMatting, Network, RembgWeights, count_threads, refine_edge
from augment.models.saliency import FLAT, doubt_reason
from augment.models.weights import check_libraries
from augment.stages.remove import Remover


@dataclass(frozen=True)
class Rembg(Remover):
    """A salient object's matte by rembg (https://github.com/danielgatis/rembg), at the image's own size.

    The confidence is how sure the network is of what it calls object: the mean probability over the predicted object,
    each pixel weighted by its own. About 0.95 for a clear object, mostly below 0.5 if there is none.

    - `model`: a name that rembg knows ("isnet-general-use", "u2net", "birefnet-general") or the path of an ONNX file.
    - `family`: how the input of a local file is prepared: rembg's "dis_custom" (ISNet), "u2net_custom", "ben_custom".
    - `doubt`: a matte whose confidence, 0 to 1, is below it is marked unusable.
    - `alpha_matting`: refine the edge; None leaves it as the network draws it.
    - `device`: "auto" is CUDA if onnxruntime has it.
    - `batch_size`: images at once.
    """

    backend: ClassVar[str] = "rembg"
    execution_only: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    model: str = "isnet-general-use"
    family: Literal["dis_custom", "u2net_custom", "ben_custom"] = "dis_custom"
    doubt: Annotated[float, Field(ge=0, le=1)] = 0.7
    alpha_matting: AlphaMatting | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 8

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        """See `Remover`. Raises UnavailableError if rembg, onnxruntime or the model cannot be had."""
        network = self._network
        # One run of the network already uses every core, up to about four; more cores take several images at once.
        with ThreadPoolExecutor(max(1, min(len(images), count_threads() // 4))) as pool:
            return list(pool.map(lambda image: self._matte(network, image), images))

    def weights(self) -> RembgWeights:
        return RembgWeights(self.model)

    def target(self) -> str:
        return "cuda" if CUDA in pick_providers(self.device) else "cpu"

    def check(self) -> None:
        self.weights().check()
        self.target()
        if self.alpha_matting:
            check_libraries(["pymatting"])

    @cached_property
    def _network(self) -> Network:
        return Network(self.weights().resolve(), self.model, self.family, self.device)

    def _matte(self, network: Network, image: Image) -> Matte:
        alpha, confidence = network.predict(image)
        if confidence is None:
            return Matte.from_full(alpha, 0.0, FLAT)
        if reason := doubt_reason(confidence, self.doubt):
            return Matte.from_full(alpha, confidence, reason)
        if self.alpha_matting:
            return refine_edge(image, alpha, confidence, self.alpha_matting)
        return Matte.from_full(alpha, confidence)
