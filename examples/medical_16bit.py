"""Replace backgrounds in 12- or 16-bit grayscale images, such as X-rays, without losing their range.

    python examples/medical_16bit.py path/to/images --window 0 4095 --cache path/to/cache

`images` holds one folder per class with 16-bit PNG or TIFF files. The window's values become black and white; use the
same one for prewarming and for training. `--domain` is the kind of picture, such as radiology or microscopy: prompts
and light then stay within what the instrument can do.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment import Recipe, prewarm
from augment.torchvision import ImageLoader, ReplaceBackground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--window", type=float, nargs=2, default=(0, 4095), metavar=("LOW", "HIGH"))
    parser.add_argument("--domain", default="radiology")
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()

    recipe = Recipe.load("classic").changed({"refine.domain": arguments.domain})
    print(prewarm(arguments.images, arguments.cache, recipe, variants=2, window=tuple(arguments.window)))

    replace = ReplaceBackground(arguments.cache, p=0.5)
    transform = v2.Compose(
        [
            replace,
            v2.Grayscale(),
            v2.Resize((arguments.size, arguments.size), antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    # ImageFolder's own loader would turn every value above 255 white.
    dataset = ImageFolder(arguments.images, transform, loader=ImageLoader(tuple(arguments.window)))
    for images, labels in DataLoader(dataset, batch_size=8, num_workers=2):
        print(tuple(images.shape), f"{images.min():.2f} to {images.max():.2f}", labels.tolist())
    print(replace.counts)


if __name__ == "__main__":
    main()
