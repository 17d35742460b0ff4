"""Train segmentation: the masks cut the objects out, and stay right on every new background.

    python examples/segmentation.py path/to/images path/to/masks --cache path/to/cache

The two folders hold files of the same names. In a mask, 0 is background and every other value a class.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from augment import Placement, Recipe, prewarm
from augment.stages.remove.masks import Masks
from augment.torchvision import ReplaceBackground


class Segmentation(Dataset):
    """Pairs of an image and its mask."""

    def __init__(self, images: Path, masks: Path, transform=None) -> None:
        self.samples = [(path, masks / path.name) for path in sorted(images.iterdir()) if (masks / path.name).is_file()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        image, mask = self.samples[index]
        sample = (
            PIL.Image.open(image).convert("RGB"),
            tv_tensors.Mask(torch.from_numpy(np.array(PIL.Image.open(mask)))),
        )
        return sample if self.transform is None else self.transform(*sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()

    recipe = Recipe.load("classic").changed({"remove": Masks()})
    print(prewarm(Segmentation(arguments.images, arguments.masks), arguments.cache, recipe, variants=2))

    replace = ReplaceBackground(arguments.cache, p=0.5, placement=Placement(scale=(0.8, 1.2), translate="uniform"))
    transform = v2.Compose([replace, v2.ToImage(), v2.Resize((arguments.size, arguments.size), antialias=True)])
    dataset = Segmentation(arguments.images, arguments.masks, transform)
    for images, masks in DataLoader(dataset, batch_size=4, num_workers=2):
        print(tuple(images.shape), "classes", masks.unique().tolist(), f"{(masks > 0).float().mean():.1%} object")
    print(replace.counts)


if __name__ == "__main__":
    main()
