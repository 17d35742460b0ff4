"""The dataset's own masks as mattes: exact, and the only remover that cannot pick the wrong object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field

from augment.artifacts import Image, Matte
from augment.errors import ItemFailed, UnavailableError
from augment.stages.base import Item, digest
from augment.stages.remove import Remover

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Masks(Remover):
    """Mattes from the masks that come with the dataset: the sample's own, else a file in `folder`.

    The file is in `folder` under the image's path: for `photos/dog/1.jpg` it is `folder/dog/1.*`, else `folder/1.*`.
    `folder` may be beside the images; it may also be their own folder, and then `suffix` tells masks and images apart.
    An item without a mask, or with a mask of another size, fails.

    - `folder`: where the mask files are; empty if every sample carries its own mask.
    - `suffix`: what the mask's name has after the image's, before the extension ("_mask" for `1_mask.png`).
    - `values`: the labels that are object, for masks of several classes; empty for every label but 0. For a mask with a
      palette a label is the palette's index.
    """

    backend: ClassVar[str] = "masks"
    parallel: ClassVar[bool] = True

    folder: str = ""
    suffix: str = ""
    values: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = ()

    def __call__(
        self,
        *,
        images: Sequence[Image],
        masks: Sequence[NDArray[np.uint8] | None],
        sources: Sequence[str | None],
        **_: Any,
    ) -> list[Matte | ItemFailed]:
        return [self._matte(*item) for item in zip(images, masks, sources, strict=True)]

    def check(self) -> None:
        """Raise UnavailableError if `folder` is not a folder."""
        if self.folder and not Path(self.folder).is_dir():
            raise UnavailableError(f"remove.folder: {self.folder!r} is not a folder; name the one that holds the masks")

    def reads(self, item: Item) -> str:
        """A digest of the item's own mask, or of the mask file's bytes, so that a corrected file is read again."""
        if item.mask is not None:
            return digest({"masks": item.mask})
        path = self._find(item.source)
        try:
            return digest({"file": path.read_bytes()}) if path else ""
        except OSError:  # the item will fail and say why
            return ""

    def _matte(self, image: Image, mask: NDArray[np.uint8] | None, source: str | None) -> Matte | ItemFailed:
        name = source or "an image"
        try:
            labels, origin = (mask, "its mask") if mask is not None else self._read(name, source)
        except ItemFailed as failure:
            return failure
        if labels.shape != image.shape[:2]:
            (mask_height, mask_width), (height, width) = labels.shape[:2], image.shape[:2]
            return ItemFailed(f"{name}: {origin} is {mask_height}x{mask_width}, the image {height}x{width}")
        chosen = np.isin(labels, self.values) if self.values else labels != 0
        return Matte.from_full(np.where(chosen, 255, 0).astype(np.uint8))

    def _read(self, name: str, source: str | None) -> tuple[NDArray[np.generic], str]:
        if not self.folder or source is None:
            raise ItemFailed(f"{name}: the sample carries no mask; set remove.folder to the folder of the mask files")
        path = self._find(source)
        if path is None:
            wanted = f"{Path(source).stem}{self.suffix}.png (or {', '.join(_SUFFIXES[1:])})"
            raise ItemFailed(
                f"{name}: no mask {wanted} in {self.folder}, nor in a folder in it that is named like the image's"
            )
        try:
            with PILImage.open(path) as file:
                labels = np.asarray(file)
        except (OSError, ValueError) as error:
            raise ItemFailed(f"{name}: its mask {path} cannot be read: {error}") from error
        if labels.ndim == 3:  # RGB or RGBA: a black and white mask saved in color, or drawn into the alpha channel
            color, rest = labels[..., :3], labels[..., 3:]
            labels = color.max(-1) if not rest.size or rest.min() == 255 else rest[..., 0]
        return labels, f"its mask {path}"

    def _find(self, source: str | None) -> Path | None:
        """The mask file of the image at that path, if there is one."""
        if not self.folder or source is None:
            return None
        return next((path for path in self._candidates(Path(source)) if path.is_file()), None)

    def _candidates(self, source: Path) -> Iterator[Path]:
        """Where the mask may be: the image's path below `folder`, with all of its own folders, then with fewer."""
        folder = Path(self.folder)
        parents = [part for part in source.parent.parts if part not in (source.anchor, "..", ".")]
        for start in range(len(parents) + 1):
            for extension in _SUFFIXES:
                path = folder.joinpath(*parents[start:], f"{source.stem}{self.suffix}{extension}")
                if path.absolute() != source.absolute():  # the images' own folder, and no suffix
                    yield path
