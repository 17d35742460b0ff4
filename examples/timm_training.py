"""Fine-tune a timm model, with replaced backgrounds in front of timm's own transform.

    python examples/timm_training.py path/to/images --cache path/to/cache --model resnet18

timm's transform crops and changes colors, so the backgrounds must be replaced before it.
"""

import argparse
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment import prewarm
from augment.torchvision import ReplaceBackground


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--pretrained", action="store_true", help="download the model's weights")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()

    print(prewarm(arguments.images, arguments.cache, variants=2))

    replace = ReplaceBackground(arguments.cache, p=0.5)
    classes = len(ImageFolder(arguments.images).classes)
    network = timm.create_model(arguments.model, pretrained=arguments.pretrained, num_classes=classes)
    timms = create_transform(**resolve_model_data_config(network), is_training=True)
    dataset = ImageFolder(arguments.images, v2.Compose([replace, timms]))
    loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-4)
    for epoch in range(arguments.epochs):
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    print(replace.counts)


if __name__ == "__main__":
    main()
