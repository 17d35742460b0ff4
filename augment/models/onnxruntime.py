"""Where onnxruntime really runs. With CUDA libraries missing it uses the CPU, and says so only on standard error."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from functools import lru_cache
from typing import Any

from augment.errors import UnavailableError
from augment.models.quiet import stderr_to_log
from augment.models.weights import check_libraries

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

_LACKING = re.compile(r"(lib[\w.+-]+): cannot open shared object file")


def pick_providers(device: str) -> list[str]:
    """What onnxruntime runs on for "auto", "cpu" or "cuda", first choice first; tried on a network of one node.

    Raises UnavailableError if "cuda" does not come about; "auto" then is the CPU, with one warning if onnxruntime was
    built for CUDA.
    """
    check_libraries(["onnxruntime"])
    if device == "cpu":
        return [CPU]
    fault = _cuda_fault()
    if fault is None:
        return [CUDA, CPU]
    if device == "cuda":
        raise UnavailableError(f'device = "cuda": {fault}, or use "auto"')
    if _is_built_for_cuda():
        _warn_once(fault)
    return [CPU]


def check_provider(session: Any, device: str) -> None:
    """Raise UnavailableError if a session was to run on CUDA and runs elsewhere; warn once if it was only wished."""
    if CUDA in session.get_providers() or device == "cpu":
        return
    if device == "cuda":
        raise UnavailableError('device = "cuda": onnxruntime put this model on the CPU: is the GPU\'s memory full?')
    if _is_built_for_cuda():
        _warn_once("onnxruntime put the model on the CPU")


def _is_built_for_cuda() -> bool:
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def _cuda_fault() -> str | None:
    """Why onnxruntime cannot use CUDA here, and what to do; None if it can."""
    import onnxruntime

    if not _is_built_for_cuda():
        return 'this onnxruntime is built without CUDA: pip install "rembg[gpu]" in place of onnxruntime'
    options = onnxruntime.SessionOptions()
    with stderr_to_log("onnxruntime") as heard:
        if hasattr(onnxruntime, "preload_dlls"):  # the libraries that torch or NVIDIA's own packages have brought
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                onnxruntime.preload_dlls()
            logger.debug("onnxruntime: %s", printed.getvalue())
        try:
            session = onnxruntime.InferenceSession(_one_node(), options, providers=[CUDA, CPU])
            works = CUDA in session.get_providers()
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            logger.debug("onnxruntime: %s", error)
            works = False
        lacks = _LACKING.search("\n".join(heard()))
    if works:
        return None
    return (
        f"onnxruntime cannot load its CUDA libraries{f' ({lacks[1]} is missing)' if lacks else ''}: "
        'pip install "onnxruntime-gpu[cuda,cudnn]", with a driver to match'
    )


@lru_cache
def _warn_once(fault: str) -> None:
    logger.warning("rembg runs on the CPU: %s", fault)


def _one_node() -> bytes:
    """An ONNX model that gives back what it gets."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def value(name: bytes) -> bytes:  # one float32
        return field(1, name) + field(2, field(1, b"\x08\x01" + field(2, field(1, b"\x08\x01"))))

    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"x")) + field(12, value(b"y"))
    return b"\x08\x08" + field(7, graph) + field(8, field(1, b"") + b"\x10\x0d")
