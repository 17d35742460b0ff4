"""Train a classifier on a folder of classes, with replaced backgrounds.

    python examples/train_imagefolder.py path/to/images --cache path/to/cache

`images` holds one folder per class, as for torchvision's ImageFolder. The first run prewarms the cache; later runs find
everything in it and start right away.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment import prewarm
from augment.torchvision import ReplaceBackground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder with one subfolder per class")
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--recipe", default="classic", help="a preset or a TOML file")
    parser.add_argument("--variants", type=int, default=2, help="backgrounds per image")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()

    print(prewarm(arguments.images, arguments.cache, arguments.recipe, variants=arguments.variants))

    replace = ReplaceBackground(arguments.cache, p=0.5)
    transform = v2.Compose(
        [
            replace,  # first: images are looked up by their decoded pixels
            v2.RandomResizedCrop(arguments.size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = ImageFolder(arguments.images, transform)
    loader = DataLoader(
        dataset,
        arguments.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = models.resnet18(num_classes=len(dataset.classes)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for epoch in range(arguments.epochs):
        right, loss_sum = 0, 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            outputs = network(images)
            loss = nn.functional.cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += (outputs.argmax(1) == labels).sum().item()
            loss_sum += loss.item() * len(labels)
        print(
            f"epoch {epoch}: loss {loss_sum / len(dataset):.3f}, accuracy {right / len(dataset):.1%}, {replace.counts}"
        )


if __name__ == "__main__":
    main()
