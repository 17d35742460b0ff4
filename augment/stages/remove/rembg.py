"""Mattes by any segmentation network that rembg knows, or by a local ONNX file of the same families."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field

from augment.artifacts import Alpha, Image, Matte
from augment.errors import WeightsError
from augment.stages.base import Item, Stage
from augment.weights import RembgModel, check_libraries, rembg_sessions

log = logging.getLogger(__name__)

# Lanczos ringing and a network's haze over the whole background would stretch the matte's box to the image's; 5 % shows
# neither at an edge nor as a ghost.
_HAZE = 13


@dataclass(frozen=True)
class AlphaMatting:
    """Closed-form matting (Levin et al. 2008) of the pixels between sure object and sure background, as rembg does it.

    - `foreground`, `background`: a prediction above the one, 0 to 255, is surely object, below the other surely not.
    - `erode`: side in pixels of the square that both sure regions are eroded by.

    Takes seconds and about 1 GB for an image of a megapixel.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    foreground: Annotated[int, Field(ge=1, le=254)] = 240
    background: Annotated[int, Field(ge=1, le=254)] = 10
    erode: Annotated[int, Field(ge=0)] = 10


@dataclass(frozen=True)
class Rembg(Stage):
    """A salient object's matte by rembg (https://github.com/danielgatis/rembg), at the image's own size.

    The confidence is how sure the network is of what it calls object: the mean probability over the predicted object,
    each pixel weighted by its own. About 0.95 for a clear object, mostly below 0.5 where there is none.

    - `model`: a name that rembg knows ("isnet-general-use", "u2net", "birefnet-general") or the path of an ONNX file.
    - `family`: how the input of a local file is prepared: rembg's "dis_custom" (ISNet), "u2net_custom", "ben_custom".
    - `doubt`: a matte whose confidence, 0 to 1, is below it is marked unusable.
    - `alpha_matting`: refine the edge; left out, it stays as the network draws it.
    - `device`: "auto" is CUDA where onnxruntime has it. `batch_size`: items handed over at once.
    """

    backend: ClassVar[str] = "rembg"
    execution_only: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    model: str = "isnet-general-use"
    family: Literal["dis_custom", "u2net_custom", "ben_custom"] = "dis_custom"
    doubt: Annotated[float, Field(ge=0, le=1)] = 0.7
    alpha_matting: AlphaMatting | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 8

    def __call__(self, items: Sequence[Item]) -> list[Matte]:
        """Raises WeightsError where rembg, onnxruntime or the model cannot be had."""
        network = self._network
        # One run of the network already uses every core, up to about four; more cores take several images at once.
        with ThreadPoolExecutor(max(1, min(len(items), _threads() // 4))) as pool:
            return list(pool.map(lambda item: self._matte(network, item.image), items))

    def weights(self) -> RembgModel:
        return RembgModel(self.model)

    def where(self) -> str:
        return "cuda" if "CUDAExecutionProvider" in _providers(self.device) else "cpu"

    def check(self) -> None:
        self.weights().check()
        self.where()
        if self.alpha_matting:
            check_libraries(["pymatting"])

    @cached_property
    def _network(self) -> _Network:
        return _Network(self.weights().resolve(), self.model, self.family, self.device)

    def _matte(self, network: _Network, image: Image) -> Matte:
        alpha, confidence = network.predict(image)
        if confidence is None:
            return Matte.from_full(alpha, 0.0, "flat: the network predicts the same everywhere")
        if confidence < self.doubt:
            reason = f"doubtful: confidence {confidence:.2f} is below {self.doubt:.2f}"
            return Matte.from_full(alpha, confidence, reason)
        if self.alpha_matting:
            return _refine(image, alpha, confidence, self.alpha_matting)
        return Matte.from_full(alpha, confidence)


class _Network:
    """A rembg session that tells what rembg's own `predict` hides: the prediction before it is stretched.

    rembg stretches each prediction to the range 0 to 1, so a network that sees nothing looks as sure as any, and one
    that sees the same everywhere gives NaN.
    """

    def __init__(self, path: Path, model: str, family: str, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors alone, as rembg sets it
        # Threads that wait by spinning would take the cores from those that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions = rembg_sessions()
        self._last = threading.local()
        cls = sessions[model if model in sessions else family]
        # rembg looks for a custom file under its own folders only; the path is resolved already.
        located = type(cls.__name__, (cls,), {"download_models": classmethod(lambda _, *args, **kwargs: str(path))})
        try:
            self._session = located(model, options, providers=_providers(device), model_path=str(path))
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise WeightsError(f"{path}: onnxruntime cannot load it: {str(error).strip().splitlines()[0]}") from error
        self._run = self._session.inner_session.run
        self._session.inner_session = _Recorder(self._session.inner_session, self._last)

    def predict(self, image: Image) -> tuple[Alpha, float | None]:
        """`(H, W)` uint8 alpha and the confidence, 0 to 1, or None where the prediction is flat."""
        # An array carries no EXIF, so nothing turns it: the matte has the geometry of these pixels.
        with np.errstate(divide="ignore", invalid="ignore"):
            masks = self._session.predict(PILImage.fromarray(image))
        raw: NDArray[np.float32] = np.asarray(self._last.output, np.float32)
        if not np.isfinite(raw).all() or np.ptp(raw) < 1e-6:
            return np.zeros(image.shape[:2], np.uint8), None
        alpha = np.maximum.reduce([np.asarray(mask) for mask in masks])
        if raw.shape[1] > 1:  # a class a channel: the masks are all there is to judge by
            probability = alpha.astype(np.float32) / 255
        elif raw.min() < -0.01 or raw.max() > 1.01:  # before the sigmoid
            probability = 1 / (1 + np.exp(-raw.clip(-30, 30)))
        else:
            probability = raw
        alpha[alpha < _HAZE] = 0
        object_ = probability[probability > 0.1].astype(np.float64)
        return alpha, float((object_**2).sum() / object_.sum()) if object_.size else 0.0


class _Recorder:
    """An onnxruntime session that keeps the first output of the calling thread's last run."""

    def __init__(self, session: Any, last: threading.local) -> None:
        self._session, self._last = session, last

    def run(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._session.run(*args, **kwargs)
        self._last.output = outputs[0]
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


_matting = threading.Lock()  # one of numba's threading layers ends the process when two threads use it at once


def _refine(image: Image, alpha: Alpha, confidence: float, settings: AlphaMatting) -> Matte:
    """The matte after alpha matting, with the object's own colours at its soft pixels."""
    with _matting:
        try:
            cutout = _alpha_matting_cutout()(
                PILImage.fromarray(image),
                PILImage.fromarray(alpha),
                settings.foreground,
                settings.background,
                settings.erode,
            )
        except ValueError:  # pymatting, where erosion leaves no pixel that is surely object or surely background
            return Matte.from_full(alpha, confidence)
    rgba = np.asarray(cutout)
    matte = Matte.from_full(np.ascontiguousarray(rgba[..., 3]), confidence)
    soft = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
    return replace(matte, edge_colors=rgba[..., :3][soft])


def _alpha_matting_cutout() -> Any:
    """rembg's function of that name. On its first import numba compiles, and keeps the code beside pymatting's own or,
    where that is read-only, in the user's cache."""
    if "pymatting" not in sys.modules:
        check_libraries(["pymatting"])
        spec = importlib.util.find_spec("pymatting")
        folders = spec.submodule_search_locations if spec else None
        if not any(path for folder in folders or () for path in Path(folder).rglob("*.nbi")):
            log.warning("numba compiles pymatting for alpha matting: half a minute, the first time on a machine")
    import rembg.bg

    return rembg.bg.alpha_matting_cutout


def _providers(device: str) -> list[str]:
    """What onnxruntime runs on, first choice first."""
    check_libraries(RembgModel.libraries)
    import onnxruntime

    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if device == "cuda":
        raise WeightsError('device = "cuda": onnxruntime has no CUDA here: pip install "rembg[gpu]", or use "auto"')
    return ["CPUExecutionProvider"]


def _threads() -> int:
    """The cores this process may use; OMP_NUM_THREADS lowers it, as for torch and for rembg itself."""
    if given := os.environ.get("OMP_NUM_THREADS"):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
