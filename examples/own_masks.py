"""Use the dataset's own masks instead of a remover, from a folder of masks or from a Dataset that returns masks.

    python examples/own_masks.py path/to/images path/to/masks --cache path/to/cache

Each mask has the same path in the folder of masks as its image in the folder of images, with any extension. Every pixel
that is not 0 is object. Labels must be tv_tensors: if a mask is only a second PIL image, the sample stays unchanged.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from augment import Recipe, prewarm
from augment.torchvision import ReplaceBackground


def files(folder: Path) -> list[Path]:
    """Every file of a kind that Pillow can read, sorted."""
    extensions = PIL.Image.registered_extensions()
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in extensions)


class Segmented(Dataset):
    """Images with their masks, as tv_tensors."""

    def __init__(self, images: Path, masks: Path, transform=None) -> None:
        by_name = {path.relative_to(masks).with_suffix(""): path for path in files(masks)}
        self.pairs = []
        for path in files(images):
            mask = by_name.get(path.relative_to(images).with_suffix(""))
            if mask is None:
                print(f"{path} has no mask in {masks} and is left out")
            else:
                self.pairs.append((path, mask))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        image, mask = self.pairs[index]
        with PIL.Image.open(image) as file:
            picture = file.convert("RGB")
        with PIL.Image.open(mask) as file:
            # The values of a palette mask are its classes, not its colors.
            values = np.array(file if file.mode in ("1", "L", "P", "I;16", "I") else file.convert("L"))
        sample = tv_tensors.Image(picture), tv_tensors.Mask(torch.from_numpy(values.astype(np.int64)))
        return self.transform(*sample) if self.transform else sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    arguments = parser.parse_args()

    # 1. A folder of masks: set it in the recipe.
    recipe = Recipe.load("classic").changed({"remove.backend": "masks", "remove.folder": str(arguments.masks)})
    print(prewarm(arguments.images, arguments.cache, recipe))

    # 2. A Dataset that returns masks: no folder is needed. Labels are protected, so no pixel of a mask is ever changed.
    recipe = Recipe.load("classic").changed({"remove.backend": "masks"})
    print(prewarm(Segmented(arguments.images, arguments.masks), arguments.cache, recipe))
    replace = ReplaceBackground(arguments.cache, p=1.0, recipe=recipe)
    dataset = Segmented(arguments.images, arguments.masks, transform=replace)
    for index in range(len(dataset)):
        image, mask = dataset[index]
        print(f"{dataset.pairs[index][0].name}: {tuple(image.shape)}, {(mask != 0).float().mean():.0%} object")
    print(replace.counts)


if __name__ == "__main__":
    main()
