"""Odd images, as files and in memory. The tables state what becomes of each: its size, or the words of its refusal."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest
import torch
from torchvision import tv_tensors

from augment import prewarm
from augment.errors import InputError
from augment.imaging.pillow import oriented
from augment.keys import image_key, to_rgb
from augment.prewarming.source import Files
from augment.testing.pictures import scene
from tests import simple

RGB = scene(3, (48, 64))[0]
PICTURE = PIL.Image.fromarray(RGB)
GRAY = RGB[..., 0].copy()


def saved(form: str, image: PIL.Image.Image = PICTURE, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def converted(mode: str, form: str) -> bytes:
    return saved(form, PICTURE.convert(mode))


def turned(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    return saved("JPEG", exif=exif, quality=95)


def frames(form: str) -> bytes:
    others = [PIL.Image.fromarray(scene(n, (48, 64))[0]) for n in (4, 5)]
    return saved(form, save_all=True, append_images=others)


def png(*chunks: tuple[bytes, bytes], width: int = 64, height: int = 48, depth: int = 8, color: int = 2) -> bytes:
    """A PNG of these chunks between its header and its end."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    parts = [head, *chunks, (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


def pixels(values: np.ndarray[Any, Any]) -> tuple[bytes, bytes]:
    """The chunk of an image's pixels, `(H, W, …)` big-endian."""
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return b"IDAT", zlib.compress(rows)


def encoded(suffix: str, image: np.ndarray[Any, Any], *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
DEEP = RGB.astype(">u2") * 257
ADOBE = saved("JPEG", PICTURE.convert("CMYK"))  # Pillow writes and reads Adobe's inverted values
SIZE = (48, 64)
UNREADABLE = "PIL cannot read it as an image"

# Bytes and what becomes of them: the size of what is read, or words of the reason.
FILES: dict[str, tuple[bytes, tuple[int, int] | str]] = {
    "mode 1": (converted("1", "PNG"), SIZE),
    "mode L": (converted("L", "PNG"), SIZE),
    "mode LA": (converted("LA", "PNG"), SIZE),
    "mode P": (converted("P", "PNG"), SIZE),
    "mode PA": (converted("PA", "TIFF"), SIZE),
    "mode RGBA": (converted("RGBA", "PNG"), SIZE),
    "mode CMYK": (converted("CMYK", "TIFF"), SIZE),
    "mode YCbCr": (converted("YCbCr", "TIFF"), SIZE),
    "mode LAB": (converted("LAB", "TIFF"), SIZE),
    "mode I": (saved("TIFF", PIL.Image.fromarray(GRAY.astype(np.int32) * 257)), SIZE),
    "mode I beyond 16 bits": (saved("TIFF", PIL.Image.fromarray(GRAY.astype(np.int32) * 70_000)), "outside 0 … 65535"),
    "mode F": (saved("TIFF", PIL.Image.fromarray(GRAY.astype(np.float32))), "has no stated range; pass a window"),
    "16-bit gray PNG": (png(pixels(DEEP[..., 0]), depth=16, color=0), SIZE),
    "16-bit RGB PNG": (png(pixels(DEEP), depth=16), SIZE),
    "16-bit RGBA PNG": (png(pixels(np.dstack([DEEP, DEEP[..., :1]])), depth=16, color=6), SIZE),
    "palette with transparency": (saved("PNG", PICTURE.convert("P"), transparency=3), SIZE),
    "interlaced PNG": (encoded(".png", RGB), SIZE),
    **{f"EXIF orientation {n}": (turned(n), SIZE) for n in range(1, 9)},
    "EXIF orientation 0": (turned(0), SIZE),
    "EXIF orientation 9": (turned(9), SIZE),
    "truncated JPEG": (saved("JPEG")[:-400], "truncated"),
    "truncated PNG": (saved("PNG")[:-400], "truncated|broken"),
    "JPEG cut in its header": (saved("JPEG")[:30], f"{UNREADABLE}|[Tt]runcated|EOF"),
    "PNG with a wrong checksum": (saved("PNG")[:60] + b"\0\0\0" + saved("PNG")[63:], "broken|CRC|truncated|decod"),
    "PNG without pixels": (png(), "cannot load"),
    "PNG of no size": (png(pixels(DEEP[:0]), width=0, height=0), "."),
    "no bytes": (b"", "the file is empty"),
    "text": (b"not an image\n" * 9, UNREADABLE),
    "a web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page and not an image"),
    "an SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing .SVG."),
    "DICOM": (bytes(128) + b"DICM" + bytes(200), "a DICOM file, .* pass a Dataset .* `window`"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "an HEIF .HEIC. file, .* convert it"),
    "a PDF": (b"%PDF-1.7\n" + bytes(99), UNREADABLE),
    "a zip": (b"PK\3\4" + bytes(99), UNREADABLE),
    "animated GIF": (frames("GIF"), SIZE),
    "animated PNG": (frames("PNG"), SIZE),
    "animated WebP": (frames("WEBP"), SIZE),
    "TIFF of three pages": (frames("TIFF"), SIZE),
    "MPO": (frames("MPO"), SIZE),
    "1 × 1": (saved("PNG", PICTURE.resize((1, 1))), (1, 1)),
    "1 × 500": (saved("PNG", PICTURE.resize((1, 500))), (500, 1)),
    "500 × 1": (saved("PNG", PICTURE.resize((500, 1))), (1, 500)),
    "20,000 × 2": (saved("PNG", PICTURE.resize((20_000, 2))), (2, 20_000)),
    "a gigapixel header": (png(pixels(DEEP[:1]), width=40_000, height=40_000), "decompression bomb"),
    "a header of 2³¹ pixels a side": (png(width=2**31 - 1, height=2**31 - 1), "decompression bomb|too large"),
    "ICC profile": (saved("JPEG", icc_profile=SRGB), SIZE),
    "broken ICC profile": (saved("JPEG", icc_profile=b"nonsense"), SIZE),
    "gamma chunk": (png((b"gAMA", struct.pack(">I", 100_000)), pixels(RGB)), SIZE),
    "text chunk that unpacks to 100 MB": (
        png((b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))), pixels(RGB)),
        "too large|too long|.",
    ),
    "progressive JPEG": (saved("JPEG", progressive=True), SIZE),
    "JPEG without subsampling": (saved("JPEG", subsampling=0), SIZE),
    "gray JPEG": (converted("L", "JPEG"), SIZE),
    "Adobe's CMYK JPEG": (ADOBE, SIZE),
    "JPEG with bytes after its end": (saved("JPEG") + bytes(999), SIZE),
    "BMP": (saved("BMP"), SIZE),
    "BMP of 1 bit": (converted("1", "BMP"), SIZE),
    "BMP with a palette": (converted("P", "BMP"), SIZE),
    "BMP with alpha": (converted("RGBA", "BMP"), SIZE),
    "ICO": (saved("ICO", PICTURE.resize((32, 32))), (32, 32)),
    "JPEG 2000": (saved("JPEG2000"), SIZE),
    "AVIF": (saved("AVIF"), SIZE),
    "WebP without loss": (saved("WEBP", lossless=True), SIZE),
    "TGA": (saved("TGA"), SIZE),
    "PCX": (saved("PCX"), SIZE),
    "PPM": (saved("PPM"), SIZE),
    "compressed TIFF": (saved("TIFF", compression="tiff_lzw"), SIZE),
    "JPEG named .png": (saved("JPEG"), SIZE),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the files, named by their numbers; the suffixes say nothing."""
    folder = tmp_path_factory.mktemp("odd")
    for number, (data, _) in enumerate(FILES.values()):
        (folder / f"{number:02}.jpg").write_bytes(data)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_pillow_reads_it_or_refused_in_one_sentence(folder: Path, name: str) -> None:
    path = folder / f"{list(FILES).index(name):02}.jpg"
    rule = FILES[name][1]
    loaded = Files([path])[0]
    if isinstance(rule, str):
        if rule.endswith("|.") and loaded.failure is None:
            return  # some versions of Pillow read it, and some refuse
        assert loaded.failure is not None
        assert loaded.items == ()
        assert _matches(rule, loaded.failure.reason), loaded.failure.reason
        assert "\n" not in loaded.failure.reason
        return
    assert loaded.failure is None, loaded.failure
    with PIL.Image.open(path) as file:
        expected = to_rgb(file)
    assert expected.shape == (*rule, 3)
    np.testing.assert_array_equal(loaded.items[0].image, expected)
    is_turned = name in {f"EXIF orientation {n}" for n in range(2, 9)}
    assert len(loaded.items) == 1 + is_turned
    if is_turned:
        np.testing.assert_array_equal(loaded.items[1].image, oriented(expected, int(name[-1])))


def _matches(words: str, text: str) -> bool:
    return re.search(words, text) is not None


def test_all_of_them_together_end_no_run(folder: Path, tmp_path: Path) -> None:
    report = prewarm(folder, tmp_path / "cache", simple.recipe(), workers=1, progress=False)
    refused = {Path(failure.source).name for failure in report.failures if failure.stage == "decode"}
    texts = {f"{n:02}.jpg": rule for n, (_, rule) in enumerate(FILES.values()) if isinstance(rule, str)}
    assert {name for name, rule in texts.items() if not rule.endswith("|.")} <= refused <= texts.keys()
    assert {failure.stage for failure in report.failures} == {"decode"}
    assert report.complete >= 20
    assert report.complete + sum(report.unusable.values()) == report.images


# Names and places of files.


def _missing(path: Path) -> Path:
    return path.with_name("gone.jpg")


def _linked(path: Path) -> Path:
    (link := path.with_name("link.jpg")).symlink_to(path)
    return link


def _looped(path: Path) -> Path:
    (link := path.with_name("loop.jpg")).symlink_to("loop.jpg")
    return link


def _folder(path: Path) -> Path:
    (folder := path.with_name("folder.jpg")).mkdir()
    return folder


def _called(name: bytes) -> Callable[[Path], Path]:
    def move(path: Path) -> Path:
        target = Path(os.fsdecode(os.fsencode(path.parent) + b"/" + name))
        return path.rename(target)

    return move


PLACES: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "missing": (_missing, "there is no such file"),
    "a link": (_linked, None),
    "a link in a loop": (_looped, "symbolic links"),
    "a folder": (_folder, "it is a folder"),
    "a name with a newline": (_called(b"a\nb.jpg"), None),
    "a name that is not UTF-8": (_called(b"caf\xe9.jpg"), None),
    "a composed name": (_called("é.jpg".encode()), None),
    "a decomposed name": (_called("é.jpg".encode()), None),
    "a name of 255 bytes": (_called(b"a" * 251 + b".jpg"), None),
    "a name with a quote and a dollar": (_called(b"'$HOME\".jpg"), None),
    "a name like a glob": (_called(b"[a]*?.jpg"), None),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_file_is_found_by_any_name(tmp_path: Path, name: str) -> None:
    place, reason = PLACES[name]
    (tmp_path / "a.jpg").write_bytes(saved("JPEG"))
    path = place(tmp_path / "a.jpg")
    report = prewarm([path], tmp_path / "cache", simple.recipe(), workers=0, progress=False)
    if reason is None:
        assert report.complete == 1
    else:
        assert reason in report.failures[0].reason
    str(report).encode()
    report.save(tmp_path / "report.csv")


def test_a_file_that_vanishes_midway_is_one_failure(tmp_path: Path) -> None:
    class Vanishing(Files):
        def items(self, index: int, group: str | None) -> Any:
            yield from super().items(index, group)
            os.unlink(self.names[index])

    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(saved("PNG", PIL.Image.fromarray(scene(number)[0])))
    source = Vanishing(sorted(tmp_path.glob("*.jpg")))
    assert source[0].failure is None
    failure = source[0].failure
    assert failure is not None
    assert failure.reason == "there is no such file"


# In memory.

FLOATS = RGB.transpose(2, 0, 1).astype(np.float32) / 255


def _with(value: float) -> torch.Tensor:
    floats = torch.from_numpy(FLOATS.copy())
    floats[0, 0, 0] = value
    return floats


def _lazy() -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(saved("PNG")))


def _closed() -> PIL.Image.Image:
    image = _lazy()
    image.close()
    return image


def _read_only() -> np.ndarray[Any, Any]:
    array = RGB.copy()
    array.flags.writeable = False
    return array


MEMORY: dict[str, tuple[Callable[[], Any], np.ndarray[Any, Any] | str]] = {
    "NaN in a float tensor": (lambda: _with(float("nan")), "floats from nan|put this transform before"),
    "infinity in a float tensor": (lambda: _with(float("inf")), "floats from .* to inf"),
    "minus infinity": (lambda: _with(float("-inf")), "floats from -inf"),
    "negative floats": (lambda: torch.from_numpy(FLOATS * 2 - 1), "divide 0 … 255 by 255"),
    "floats to 255": (lambda: torch.from_numpy(FLOATS * 255), "divide 0 … 255 by 255"),
    "a little beyond 1": (lambda: _with(1.05), np.where(np.indices((48, 64, 3)).sum(0) == 0, 255, RGB)),
    "uint16": (lambda: RGB.astype(np.uint16) * 257, RGB),
    "int32": (lambda: RGB.astype(np.int32), "values of type int32; use uint8"),
    "int8": (lambda: RGB.astype(np.int8), "values of type int8"),
    "uint32": (lambda: RGB.astype(np.uint32), "values of type uint32"),
    "complex": (lambda: RGB.astype(np.complex64), "values of type complex64"),
    "bool": (lambda: RGB > 128, np.where(RGB > 128, 255, 0)),
    "float64": (lambda: RGB / 255, RGB),
    "float16": (lambda: torch.from_numpy(FLOATS).half(), RGB),
    "bfloat16 ones": (lambda: torch.ones(3, 4, 5, dtype=torch.bfloat16), np.full((4, 5, 3), 255)),
    "(1, H, W) tensor": (lambda: torch.from_numpy(GRAY)[None], np.dstack([GRAY] * 3)),
    "(H, W, 1)": (lambda: GRAY[..., None], np.dstack([GRAY] * 3)),
    "(H, W)": (lambda: GRAY, np.dstack([GRAY] * 3)),
    "(4, H, W) tensor": (lambda: torch.from_numpy(np.dstack([RGB, GRAY]).transpose(2, 0, 1).copy()), RGB),
    "(2, H, W) tensor": (lambda: torch.zeros(2, 8, 8), r"an image tensor is .* got \(2, 8, 8\)"),
    "a batch": (lambda: torch.zeros(2, 3, 8, 8), r"got \(2, 3, 8, 8\)"),
    "a batch of arrays": (lambda: np.zeros((2, 8, 8, 3), np.uint8), r"got \(2, 8, 8, 3\)"),
    "every second pixel": (lambda: RGB[::2, ::2], RGB[::2, ::2]),
    "negative strides": (lambda: RGB[::-1, ::-1], RGB[::-1, ::-1]),
    "channels swapped by a view": (lambda: RGB[..., ::-1], RGB[..., ::-1]),
    "Fortran order": (lambda: np.asfortranarray(RGB), RGB),
    "read-only": (_read_only, RGB),
    "big-endian uint16": (lambda: (RGB.astype(np.uint16) * 257).astype(">u2"), RGB),
    "a matrix": (lambda: np.matrix(GRAY, copy=True) if hasattr(np, "matrix") else GRAY, np.dstack([GRAY] * 3)),
    "a masked array": (lambda: np.ma.masked_array(RGB, RGB > 200), RGB),
    "an empty array": (lambda: np.zeros((0, 4, 3), np.uint8), "an image without pixels"),
    "an empty tensor": (lambda: torch.zeros(3, 0, 4, dtype=torch.uint8), "an image without pixels"),
    "an array of objects": (lambda: RGB.astype(object), "values of type object"),
    "an array of text": (lambda: np.array([["a", "b"]]), "values of type <U1"),
    "a structured array": (lambda: np.zeros((4, 4), [("r", "u1")]), "values of type"),
    "a tv_tensor on no device": (
        lambda: tv_tensors.Image(torch.zeros(3, 4, 4, device="meta")),
        "on meta whose values cannot be read",
    ),
    "a sparse tensor": (lambda: torch.zeros(3, 4, 4).to_sparse(), "sparse_coo .* cannot be read"),
    "a tensor that needs gradients": (lambda: torch.from_numpy(FLOATS).requires_grad_(), RGB),
    "a quantized tensor": (
        lambda: torch.quantize_per_tensor(torch.zeros(3, 4, 4), 1.0, 0, torch.quint8),
        "whose values cannot be read",
    ),
    "a lazily opened PIL image": (_lazy, RGB),
    "a PIL image whose file is closed": (_closed, "cannot be read, because it was closed"),
    "a PIL image without pixels": (lambda: PIL.Image.new("RGB", (0, 4)), "without pixels"),
    "a number": (lambda: 3, "not an image: int"),
    "None": (lambda: None, "not an image: NoneType"),
    "a list of rows": (lambda: RGB.tolist(), "not an image: list"),
    "bytes": (lambda: saved("PNG"), "not an image: bytes"),
}


@pytest.mark.filterwarnings("ignore")  # NumPy and torch deprecate some of these forms
@pytest.mark.parametrize("name", MEMORY)
def test_an_image_in_memory_is_read_or_refused_with_its_form(name: str) -> None:
    make, rule = MEMORY[name]
    if isinstance(rule, str):
        with pytest.raises(InputError, match=rule) as caught:
            image_key(make())
        assert "\n" not in str(caught.value)
    else:
        found = to_rgb(make())
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, rule)
        assert len(image_key(make())) == 32


def test_the_tables_hold_more_than_sixty_kinds() -> None:
    assert len(FILES) + len(PLACES) + len(MEMORY) > 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks to become another user")
def test_a_file_that_may_not_be_read_is_one_failure() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "a.jpg").write_bytes(saved("JPEG"))
        (folder / "a.jpg").chmod(0)
        reasons = multiprocessing.get_context("fork").Queue()
        process = multiprocessing.get_context("fork").Process(target=_read_as_nobody, args=(folder / "a.jpg", reasons))
        process.start()
        assert reasons.get(timeout=60) == "Permission denied"
        process.join()


def _read_as_nobody(path: Path, reasons: Any) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    failure = Files([path])[0].failure
    reasons.put(failure and failure.reason)
