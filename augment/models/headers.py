"""What a file of weights is, by its first bytes: read before the work, in milliseconds, whatever its size."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from augment.errors import UnavailableError

_LONGEST_HEAD = 100_000_000  # bytes of a safetensors head; the format's own limit
_GRAPH = 7  # the number of ONNX's field for the network itself
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def check_onnx(path: Path) -> None:
    """Raise UnavailableError, with what it is instead, if a file is not an ONNX model, or if its end is missing."""
    try:
        with path.open("rb") as file:
            if kind := _known_as(file.read(8), path):
                raise UnavailableError(f"{path} is {kind}, and not an ONNX model: export it with torch.onnx.export")
            file.seek(0)
            fields = _fields(file, path.stat().st_size)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    if fields is None or _GRAPH not in fields:
        raise UnavailableError(f"{path} is not a whole ONNX model: it is another kind of file, or its end is missing")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors by name. Raises ValueError if it is none, or its end is missing."""
    with path.open("rb") as file:
        head = file.read(8)
        (length,) = struct.unpack("<Q", head) if len(head) == 8 else (0,)
        if not 2 <= length <= _LONGEST_HEAD:
            raise ValueError("it is not a safetensors file")
        try:
            entries = json.loads(file.read(length))
            tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
            end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
            shapes = {name: tuple(map(int, entry["shape"])) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError("it is not a safetensors file") from error
    if path.stat().st_size < 8 + length + end:
        raise ValueError("its end is missing")
    return shapes


def _known_as(start: bytes, path: Path) -> str | None:
    """What a file that begins so is, if it is something that people take for ONNX."""
    if start[:2] == b"PK":
        return "a PyTorch checkpoint" if zipfile.is_zipfile(path) and _is_torch(path) else "a ZIP archive"
    if start[:1] == b"\x80":
        return "a PyTorch checkpoint or another pickle"
    if start[:4] == b"GGUF":
        return "a GGUF model"
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "a Keras (HDF5) model"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if start.lstrip()[:1] == b"<":
        return "a web page"
    if start.startswith(b"version "):
        return "a Git LFS pointer (run `git lfs pull`)"
    return None


def _is_torch(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.namelist())


def _fields(file: BinaryIO, size: int) -> set[int] | None:
    """The numbers of a protobuf message's own fields; None if it is none, or longer than the file."""
    found = set()
    while file.tell() < size:
        tag = _varint(file)
        if tag is None or tag >> 3 == 0:
            return None
        found.add(tag >> 3)
        wire = tag & 7
        length = {_FIXED64: 8, _FIXED32: 4, _VARINT: 0}.get(wire)
        if wire in (_VARINT, _BYTES):
            value = _varint(file)
            if value is None:
                return None
            length = value if wire == _BYTES else 0
        if length is None or file.tell() + length > size:
            return None
        file.seek(length, 1)
    return found


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
