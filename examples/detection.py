"""Move objects onto new backgrounds together with their boxes, in a torchvision detection dataset.

    python examples/detection.py path/to/data --year 2012 --cache path/to/cache

`path/to/data` holds VOCdevkit, as `torchvision.datasets.VOCDetection` expects it. Wrap torchvision's other detection
datasets in the same way.
"""

import argparse
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import VOCDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from augment import Placement, prewarm
from augment.torchvision import ReplaceBackground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--year", default="2012")
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    print(prewarm(VOCDetection(arguments.data, arguments.year), arguments.cache))

    # If an image has boxes for anything other than its object, the object stays in place or the image is unchanged.
    placement = Placement(scale=(0.7, 1.2), translate="uniform", flip=0.5)
    replace = ReplaceBackground(arguments.cache, p=1.0, placement=placement)
    transforms = v2.Compose([replace, v2.ToImage(), v2.SanitizeBoundingBoxes()])
    dataset = wrap_dataset_for_transforms_v2(VOCDetection(arguments.data, arguments.year, transforms=transforms))
    for image, target in DataLoader(dataset, batch_size=None, num_workers=arguments.workers):
        print(tuple(image.shape), target["boxes"].tolist(), target["labels"].tolist())
    print(replace.counts)


if __name__ == "__main__":
    main()
