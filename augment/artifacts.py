"""What the chain makes of an image, as plain data, and the bytes each of them is kept as."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import cv2
import lz4.block
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from augment.errors import CorruptEntry, InputError, StoreError

# OpenCV's stubs know no element type, so neither do these: the comment is the contract.
Image: TypeAlias = NDArray[Any]  # (H, W, 3) uint8 RGB
Alpha: TypeAlias = NDArray[Any]  # (H, W) uint8, 0 background … 255 object

ImageCodec: TypeAlias = Literal["jpeg", "png", "raw"]
T = TypeVar("T")

_PLATE_QUALITY = 85  # plates serve as backgrounds too; at 95 they take a quarter longer to decode
_NO_COLORS = np.empty((0, 3), np.uint8)
_MATTE_HEADER = struct.Struct("<6IfI")
_RAW_HEADER = struct.Struct("<4sII")
_RAW_MAGIC = b"RAW3"
_JPEG_MAGIC = b"\xff\xd8"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_LZ4_RATIO = 256  # LZ4 makes at most 255 bytes of one
MAX_PIXELS = 2**28  # of an image that is decoded; what claims to be larger is damaged, or made to exhaust the memory


@dataclass(frozen=True, eq=False)
class Matte:
    """How much of each pixel is object, kept only inside the object's box.

    `alpha` is `(h, w)` uint8 for the box `(left, top, right, bottom)` of an image of `size` `(H, W)`. `confidence`, 0
    to 1, is the remover's own. `unusable` is the reason why this matte must not be composited, `None` where it may be.
    `edge_colors` is `(n, 3)` uint8: the object's own colour, freed of the old background, of the n soft pixels
    (0 < alpha < 255) in row-major order; empty where it was not estimated.
    """

    alpha: Alpha
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    confidence: float = 1.0
    unusable: str | None = None
    edge_colors: Image = field(default_factory=lambda: _NO_COLORS)

    @classmethod
    def from_full(cls, alpha: Alpha, confidence: float = 1.0, unusable: str | None = None) -> Matte:
        """Crop a full `(H, W)` uint8 alpha to its box; an empty or full one is marked unusable (invariant 2)."""
        if alpha.ndim != 2 or alpha.dtype != np.uint8:
            raise InputError(f"a matte is (H, W) uint8; got {alpha.shape} {alpha.dtype}")
        height, width = alpha.shape
        left, top, w, h = cv2.boundingRect(alpha)
        if w == 0:
            unusable = unusable or "empty: no pixel is object"
        elif alpha.min() >= 128:
            unusable = unusable or "full: every pixel is object"
        box = (left, top, left + w, top + h)
        crop = np.ascontiguousarray(alpha[top : top + h, left : left + w])
        return cls(crop, box, (height, width), float(confidence), unusable)

    def uncropped(self) -> Alpha:
        """The alpha at the image's own size, `(H, W)` uint8."""
        left, top, right, bottom = self.box
        alpha = np.zeros(self.size, np.uint8)
        alpha[top:bottom, left:right] = self.alpha
        return alpha

    @property
    def coverage(self) -> float:
        """Share of the image's area that is object, 0 to 1."""
        return float(self.alpha.sum(dtype=np.uint64)) / 255 / max(1, self.size[0] * self.size[1])

    def hole(self, grow: float) -> NDArray[np.bool_]:
        """`(H, W)` bool: every pixel within `grow` × the image's diagonal (at least 2 pixels) of any object pixel."""
        radius = max(2, round(grow * float(np.hypot(*self.size))))
        # A disc, not a square: a square reaches 1.4 times as far on the diagonals.
        distance = cv2.distanceTransform((self.uncropped() <= 8).astype(np.uint8), cv2.DIST_L2, 5)
        return distance <= radius

    def to_bytes(self) -> bytes:
        """Header, the reason, then LZ4 of the alpha and the edge colors. Raises InputError for other than one color
        per soft pixel, and for a matte that could not be read back."""
        left, top, right, bottom = self.box
        if self.alpha.shape != (bottom - top, right - left) or self.alpha.dtype != np.uint8:
            raise InputError(f"a matte of {self.alpha.shape} {self.alpha.dtype} in the box {self.box}")
        if not (0 <= left <= right <= self.size[1] and 0 <= top <= bottom <= self.size[0]):
            raise InputError(f"a matte in the box {self.box} of an image of {self.size}")
        if not math.isfinite(self.confidence):
            raise InputError(f"a matte with a confidence of {self.confidence}")
        if len(self.edge_colors) not in (0, _soft(self.alpha)):
            raise InputError(f"a matte of {len(self.edge_colors)} edge colors for {_soft(self.alpha)} soft pixels")
        reason = (self.unusable or "").encode()
        header = _MATTE_HEADER.pack(*self.size, *self.box, self.confidence, len(self.edge_colors))
        body = lz4.block.compress(self.alpha.tobytes() + self.edge_colors.tobytes(), store_size=False)
        return b"".join((header, struct.pack("<H", len(reason)), reason, body))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Matte:
        """Raises CorruptEntry if the bytes are not a whole matte."""
        try:
            height, width, left, top, right, bottom, confidence, colors = _MATTE_HEADER.unpack_from(data)
            start = _MATTE_HEADER.size + 2
            (length,) = struct.unpack_from("<H", data, start - 2)
            reason = bytes(data[start : start + length]).decode() or None
            area = (bottom - top) * (right - left)
            if not (left <= right <= width and top <= bottom <= height) or not 0 < height * width <= MAX_PIXELS:
                raise ValueError(f"a box of {left, top, right, bottom} in {width}x{height}")
            if not area and reason is None:
                raise ValueError("no pixel is object, and no reason is given")
            if not math.isfinite(confidence):
                raise ValueError(f"a confidence of {confidence}")
            if colors > area or area + 3 * colors > _LZ4_RATIO * len(data):  # before any memory is taken
                raise ValueError(f"{len(data)} bytes for {area} pixels and {colors} colors")
            body = lz4.block.decompress(data[start + length :], uncompressed_size=area + 3 * colors)
            pixels = np.frombuffer(body, np.uint8)
            alpha = pixels[:area].reshape(bottom - top, right - left)
            edge_colors = pixels[area:].reshape(colors, 3)
            if colors and colors != _soft(alpha):
                raise ValueError(f"{colors} colors, and another number of soft pixels")
        except (struct.error, ValueError, OverflowError, MemoryError, lz4.block.LZ4BlockError) as error:
            raise CorruptEntry(f"not a matte: {error}") from error
        return cls(alpha, (left, top, right, bottom), (height, width), confidence, reason, edge_colors)


def _soft(alpha: Alpha) -> int:
    """How many pixels are neither object nor background."""
    return cv2.countNonZero(cv2.inRange(alpha, 1, 254)) if alpha.size else 0


@dataclass(frozen=True)
class Prompt:
    """The refined caption with its negative prompt.

    `origin` says who wrote it, if the recipe alone does not. `domain` is the kind of picture. `grade` holds fields of
    `imaging.light.Grade`: how its light changes a picture without a model; None if that is for the text to say.
    """

    text: str
    negative: str = ""
    origin: str = ""
    domain: str = ""
    grade: Mapping[str, Any] | None = field(default=None, hash=False)

    def avoiding(self, names: tuple[str, ...]) -> Prompt:
        """The prompt with those names first in its negative prompt, unless they are in it already."""
        parts = [part.strip() for part in self.negative.split(",")]
        new = [name for name in names if name not in parts]
        return replace(self, negative=", ".join(filter(None, [*new, self.negative])))

    def to_bytes(self) -> bytes:
        return json.dumps(vars(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Prompt:
        """Raises CorruptEntry where the bytes are not a prompt."""
        try:
            fields: dict[str, Any] = json.loads(bytes(data))
            prompt = cls(**fields)
            if not all(isinstance(text, str) for text in (prompt.text, prompt.negative, prompt.origin)):
                raise ValueError("a field is not text")
            if not (isinstance(prompt.domain, str) and isinstance(prompt.grade, dict | None)):
                raise ValueError("its domain or its grade is of a wrong type")
            return prompt
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptEntry(f"not a prompt: {error}") from error


@dataclass(frozen=True)
class Rejected:
    """Says that what was drawn must not be used (a safety checker flagged it, say): try the next seed.

    `avoid` is what the next try's negative prompt should name.
    """

    reason: str
    avoid: tuple[str, ...] = ()


def encode_image(image: Image, codec: ImageCodec, quality: int = 75) -> bytes:
    """`(H, W, 3)` uint8 RGB to bytes. `quality` is JPEG's, 1 to 100 (75 is Pillow's); the other codecs are lossless."""
    if codec == "raw":
        return _RAW_HEADER.pack(_RAW_MAGIC, *image.shape[:2]) + image.tobytes()
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if codec == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, data = cv2.imencode(".jpg" if codec == "jpeg" else ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise StoreError(f"OpenCV could not encode an image of {image.shape} as {codec}")
    return data.tobytes()


def decode_image(data: bytes | memoryview, at_least: tuple[int, int] = (0, 0)) -> Image:
    """Bytes of any codec to `(H, W, 3)` uint8 RGB. Raw pixels are a view of `data`. Raises CorruptEntry.

    With `at_least` (H, W) a JPEG is decoded quickly rather than to the last grey level, and at a smaller size where it
    has more than twice as many rows and columns.
    """
    if data[:4] == _RAW_MAGIC:
        height, width = _RAW_HEADER.unpack_from(data)[1:] if len(data) >= _RAW_HEADER.size else (0, 0)
        if not height * width or len(data) != _RAW_HEADER.size + 3 * height * width:
            raise CorruptEntry(f"not a raw image of {height}x{width}: {len(data)} bytes")
        return np.frombuffer(data, np.uint8, offset=_RAW_HEADER.size).reshape(height, width, 3)
    if data[:2] == _JPEG_MAGIC:
        quick: dict[str, Any] = {}
        if all(at_least):
            # Factors between 1 and 2 take longer than decoding in full.
            smaller = {"min_height": at_least[0], "min_width": at_least[1], "min_factor": 2}
            quick = smaller | {"fastdct": True, "fastupsample": True}
        try:
            _check_size(*simplejpeg.decode_jpeg_header(data)[:2])
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB", **quick))
        except ValueError as error:
            raise CorruptEntry(f"not a JPEG that can be decoded: {error}") from error
    try:
        if data[:8] == _PNG_MAGIC:
            _check_size(*struct.unpack_from(">II", data, 16))
        elif not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):  # whose format allows 16384 pixels a side
            raise ValueError("it is no JPEG, PNG, WebP or raw image")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (ValueError, struct.error, cv2.error) as error:
        raise CorruptEntry(f"not an image that can be decoded: {error}") from error
    if image is None or not image.size:
        raise CorruptEntry("not an image that OpenCV can decode")
    return image


def _check_size(height: int, width: int) -> None:
    """Raise ValueError before memory is taken for an image that is empty or too large."""
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels; at most {MAX_PIXELS} are decoded")


@dataclass(frozen=True)
class ImageFormat:
    """How a store keeps backgrounds; see `encode_image`."""

    codec: ImageCodec = "jpeg"
    quality: int = 75


@dataclass(frozen=True, eq=False)
class Artifact(Generic[T]):
    """Something that the chain makes of an image, and the bytes it is kept as.

    Args:
        name: what its entries in a store are called.
        encode: to bytes; the format is the store's for backgrounds.
        decode: from bytes, without a copy if possible; raises CorruptEntry.
        verdict: why it must not be used, and nothing be made from it; None if it may.
        remark: what a report should count about it, worded for several of them; None is nothing.
        note: what the provenance of an artifact that was made from it says of it, as JSON; None is nothing.
    """

    name: str
    encode: Callable[[T, ImageFormat], bytes]
    decode: Callable[..., T]
    verdict: Callable[[T], str | None] = lambda _: None
    note: Callable[[T], Any] = lambda _: None
    remark: Callable[[T], str | None] = lambda _: None


def _decode_text(data: bytes | memoryview) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise CorruptEntry(f"not text: {error}") from error


def _note_prompt(prompt: Prompt) -> dict[str, str]:
    domain = {"domain": prompt.domain} if prompt.domain else {}
    return {"prompt": prompt.text, "negative": prompt.negative, "origin": prompt.origin} | domain


def _remark_prompt(prompt: Prompt) -> str | None:
    """Says that the refiner had nothing better than a template's prompt, and why."""
    replaced = prompt.origin.startswith("template (") and prompt.origin.endswith(")")
    return f"prompts are the template's: {prompt.origin[len('template (') : -1]}" if replaced else None


MATTE = Artifact("matte", lambda matte, _: matte.to_bytes(), Matte.from_bytes, verdict=lambda matte: matte.unusable)
PLATE = Artifact("plate", lambda plate, _: encode_image(plate, "jpeg", _PLATE_QUALITY), decode_image)
CAPTION = Artifact("caption", lambda caption, _: caption.encode(), _decode_text, note=str)
PROMPT = Artifact(
    "prompt", lambda prompt, _: prompt.to_bytes(), Prompt.from_bytes, note=_note_prompt, remark=_remark_prompt
)
BACKGROUND = Artifact("background", lambda image, form: encode_image(image, form.codec, form.quality), decode_image)
SCENE = Artifact("scene", BACKGROUND.encode, decode_image)  # a background made from a prompt alone, for any image
STEP = Artifact("step", PLATE.encode, decode_image)  # an image on the way to a background
ARTIFACTS: dict[str, Artifact[Any]] = {a.name: a for a in (MATTE, PLATE, CAPTION, PROMPT, BACKGROUND, SCENE, STEP)}
