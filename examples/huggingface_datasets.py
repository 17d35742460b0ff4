"""Replace the backgrounds of a Hugging Face dataset, on the fly.

    python examples/huggingface_datasets.py path/to/images --cache path/to/cache

`images` holds one folder per class. Any dataset with an `Image` column is used in the same way.
"""

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from augment import prewarm
from augment.torchvision import ReplaceBackground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder with one subfolder per class")
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()

    dataset = load_dataset("imagefolder", data_dir=str(arguments.images), split="train")
    names = dataset.features["label"].names
    # Prewarm before `with_transform`, because images are looked up by their original pixels.
    print(prewarm(dataset, arguments.cache, groups=[names[label] for label in dataset["label"]]))

    # Each image gets one of its own backgrounds, or one made for an image of another class.
    replace = ReplaceBackground(arguments.cache, p=1.0, source={"own": 1, "pool:other": 1})
    transform = v2.Compose(
        [
            replace,
            v2.ToImage(),
            v2.RandomResizedCrop(arguments.size, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def augmented(batch: dict) -> dict:
        return {"pixels": [transform(image.convert("RGB")) for image in batch["image"]], "label": batch["label"]}

    loader = DataLoader(dataset.with_transform(augmented), arguments.batch_size, num_workers=arguments.workers)
    for batch in loader:
        print(tuple(batch["pixels"].shape), [names[label] for label in batch["label"]])
    print(replace.counts)


if __name__ == "__main__":
    main()
