"""Segmentation networks of rembg (https://github.com/danielgatis/rembg), without the rest of that package."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import threading
import types
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field

from augment.artifacts import Alpha, Image, Matte
from augment.errors import UnavailableError
from augment.models.headers import check_onnx
from augment.models.onnxruntime import check_provider, pick_providers
from augment.models.saliency import HAZE, as_probability, confidence, is_flat
from augment.models.weights import Weights, check_libraries

logger = logging.getLogger(__name__)

_matting = threading.Lock()  # one of numba's threading layers ends the process if two threads use it at once


@dataclass(frozen=True)
class RembgWeights(Weights):
    """The ONNX file of a model that rembg knows by name, or a local ONNX file."""

    model: str

    libraries = ("rembg", "onnxruntime")

    def find(self) -> Path | None:
        if (local := Path(self.model).expanduser()).is_file():
            return local
        found = self._session().resolve_existing(f"{self.model}.onnx")
        return Path(found) if found else None

    def check(self) -> None:
        super().check()
        if (path := self.find()) is not None:
            check_onnx(path)

    def _session(self) -> Any:
        sessions = rembg_sessions()
        # The custom ones are reached by a path, SAM needs points, and the remote ones would send the images away.
        usable = {
            name: session
            for name, session in sessions.items()
            if session.is_local() and name != "sam" and not name.endswith("_custom")
        }
        if self.model not in usable:
            raise UnavailableError(
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
    """rembg's session classes by model name. Raises UnavailableError if a library is missing.

    `import rembg` itself brings in pymatting, for which numba compiles for half a minute the first time, and it ends
    the process if onnxruntime is missing. The classes need neither: they are imported under a stand-in for the package.
    """
    check_libraries(RembgWeights.libraries)
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


class Network:
    """A rembg session that also reports what rembg's own `predict` hides: the prediction before it is stretched.

    rembg stretches each prediction to the range 0 to 1, so a network that sees nothing looks as sure as any other, and
    one that sees the same everywhere gives NaN.
    """

    def __init__(self, path: Path, model: str, family: str, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = count_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # only errors, as rembg sets it
        # Threads that wait by spinning would take the cores from those that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions = rembg_sessions()
        self._last = threading.local()
        cls = sessions[model if model in sessions else family]
        # rembg looks for a custom file only in its own folders; the path is resolved already.
        located = type(cls.__name__, (cls,), {"download_models": classmethod(lambda _, *args, **kwargs: str(path))})
        try:
            self._session = located(model, options, providers=pick_providers(device), model_path=str(path))
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            reason = str(error).strip().splitlines()[0]
            raise UnavailableError(f"{path}: onnxruntime cannot load it: {reason}") from error
        check_provider(self._session.inner_session, device)
        self._session.inner_session = _Recorder(self._session.inner_session, self._last)

    def predict(self, image: Image) -> tuple[Alpha, float | None]:
        """`(H, W)` uint8 alpha and the confidence, 0 to 1, or None if the prediction is flat."""
        # An array carries no EXIF, so nothing turns it: the matte has the geometry of these pixels.
        with np.errstate(divide="ignore", invalid="ignore"):
            masks = self._session.predict(PILImage.fromarray(image))
        raw: NDArray[np.float32] = np.asarray(self._last.output, np.float32)
        if is_flat(raw):
            return np.zeros(image.shape[:2], np.uint8), None
        alpha = np.maximum.reduce([np.asarray(mask) for mask in masks])
        # One channel per class: only the masks are left to judge by.
        probability = alpha.astype(np.float32) / 255 if raw.shape[1] > 1 else as_probability(raw)
        alpha[alpha < HAZE] = 0
        return alpha, confidence(probability)


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


@dataclass(frozen=True)
class AlphaMatting:
    """Closed-form matting (Levin et al. 2008) of the pixels between sure object and sure background, as rembg does it.

    - `foreground`, `background`: a prediction above `foreground`, 0 to 255, is certainly object; one below `background`
      certainly is not.
    - `erode`: side in pixels of the square that both certain regions are eroded by.

    Takes seconds and about 1 GB for an image of one megapixel.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    foreground: Annotated[int, Field(ge=1, le=254)] = 240
    background: Annotated[int, Field(ge=1, le=254)] = 10
    erode: Annotated[int, Field(ge=0)] = 10


def refine_edge(image: Image, alpha: Alpha, confidence: float, settings: AlphaMatting) -> Matte:
    """The matte after alpha matting, with the object's own colors at its soft pixels."""
    with _matting:
        try:
            cutout = _alpha_matting_cutout()(
                PILImage.fromarray(image),
                PILImage.fromarray(alpha),
                settings.foreground,
                settings.background,
                settings.erode,
            )
        except ValueError:  # pymatting, if erosion leaves no pixel that is certainly object or certainly background
            return Matte.from_full(alpha, confidence)
    rgba = np.asarray(cutout)
    matte = Matte.from_full(np.ascontiguousarray(rgba[..., 3]), confidence)
    soft = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
    return replace(matte, edge_colors=rgba[..., :3][soft])


def _alpha_matting_cutout() -> Any:
    """rembg's function of that name. On its first import numba compiles, and keeps the code beside pymatting's own or,
    if that is read-only, in the user's cache."""
    if "pymatting" not in sys.modules:
        check_libraries(["pymatting"])
        spec = importlib.util.find_spec("pymatting")
        folders = spec.submodule_search_locations if spec else None
        if not any(path for folder in folders or () for path in Path(folder).rglob("*.nbi")):
            logger.warning("numba compiles pymatting for alpha matting: half a minute, the first time on a machine")
    import rembg.bg

    return rembg.bg.alpha_matting_cutout


def count_threads() -> int:
    """The cores this process may use; OMP_NUM_THREADS lowers it, as it does for torch and for rembg itself.

    OpenMP takes a list there, a number for each nesting level: "8,1".
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        return int(first)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
