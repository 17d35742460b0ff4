"""Carry a filled cache to a machine without network or write access: export it as a pack, and train from the pack.

    python examples/offline_site.py path/to/images path/to/usb/pack --cache path/to/cache

A pack is a folder of plain tar files with an index. Nothing is written to it, so it may lie on a read-only mount.
Models that a recipe downloads are only needed here, where the cache is filled; training needs none.
"""

import argparse
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment import Cache, prewarm
from augment.commands.transfer import export
from augment.torchvision import ReplaceBackground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    arguments = parser.parse_args()

    # On the machine with a network:
    print(prewarm(arguments.images, Cache(arguments.cache), variants=2))
    print(export(arguments.cache, str(arguments.pack)))

    # On the machine without one:
    replace = ReplaceBackground(arguments.pack, p=1.0)
    dataset = ImageFolder(arguments.images, v2.Compose([replace, v2.Resize((64, 64)), v2.ToImage()]))
    for images, labels in DataLoader(dataset, batch_size=8, num_workers=2):
        print(tuple(images.shape), labels.tolist())
    print(replace.counts)


if __name__ == "__main__":
    main()
