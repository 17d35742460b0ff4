"""Use the dataset's own masks instead of a remover, from a folder of masks or from a Dataset that returns masks.

    python examples/own_masks.py path/to/images path/to/masks --cache path/to/cache

Each mask has the same path in the folder of masks as its image in the folder of images, with any extension. Every pixel
that is not 0 is object.
"""

import argparse
from pathlib import Path

from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image

from augment import Recipe, prewarm
from augment.torchvision import ReplaceBackground


class Segmented(Dataset):
    """Images with their masks, as tv_tensors."""

    def __init__(self, images: Path, masks: Path, transform=None) -> None:
        self.pairs = [
            (path, masks / path.relative_to(images).with_suffix(".png")) for path in sorted(images.rglob("*.png"))
        ]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        image, mask = self.pairs[index]
        sample = (
            tv_tensors.Image(decode_image(str(image), ImageReadMode.RGB)),
            tv_tensors.Mask(decode_image(str(mask), ImageReadMode.GRAY)[0]),
        )
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
