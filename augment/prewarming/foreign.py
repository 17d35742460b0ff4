"""What a file is that Pillow cannot read, and the way out."""

from __future__ import annotations

from pathlib import Path

_WEB = (b"<!doctype html", b"<html")
_DRAWN = (b"<svg", b"<?xml")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def what_it_is(path: str | Path) -> str:
    """In one sentence, by the first bytes of a file. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(256)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "the file is empty"
    if head[128:132] == b"DICM":
        return (
            "a DICOM file, which Pillow cannot read: convert it to 16-bit PNG, or pass a Dataset that reads it and "
            "`window`"
        )
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        return "an HEIF (HEIC) file, which Pillow cannot read: convert it to JPEG or PNG"
    if text.startswith(_WEB):
        return "a web page and not an image: download the file again"
    if text.startswith(_DRAWN):
        return "a drawing (SVG) and not an image of pixels: convert it to PNG"
    return "PIL cannot read it as an image"
