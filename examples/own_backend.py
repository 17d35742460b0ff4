"""Write your own backend: a remover for images whose object is brighter than its surroundings.

    python examples/own_backend.py path/to/images --cache path/to/cache

Subclass the base class of a kind, give it a name, and implement `__call__` with the arguments that it uses. Its fields
are its settings: they are checked, written to TOML, and part of the fingerprint of its cache entries. To use it by name
in a recipe file, register it as an entry point of your package:

    [project.entry-points."augment.backends"]
    bright = "my_package.stages:Bright"
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from augment import Recipe, prewarm
from augment.artifacts import Image, Matte
from augment.stages.remove import Remover


@dataclass(frozen=True)
class Bright(Remover):
    """Takes everything brighter than a threshold as the object: Otsu's threshold plus `offset` gray levels."""

    backend: ClassVar[str] = "bright"
    parallel: ClassVar[bool] = True  # it has no model, so several threads may call it

    offset: Annotated[int, Field(ge=-128, le=128)] = 0

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte]:
        return [self._matte(image) for image in images]

    def _matte(self, image: Image) -> Matte:
        gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 2)
        threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)
        return Matte.from_full(np.where(gray > threshold + self.offset, 255, 0).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    arguments = parser.parse_args()
    recipe = replace(Recipe.load("classic"), name="bright", remove=Bright(offset=10))
    print(prewarm(arguments.images, arguments.cache, recipe))


if __name__ == "__main__":
    main()
