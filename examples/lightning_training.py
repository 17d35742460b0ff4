"""Train with Lightning: prewarm in the DataModule, and let the share of replaced backgrounds rise over the epochs.

python examples/lightning_training.py path/to/images --cache path/to/cache
"""

import argparse
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from augment import Linear, prewarm
from augment.torchvision import ReplaceBackground


class Images(lightning.LightningDataModule):
    """A folder of classes whose backgrounds are replaced in training."""

    def __init__(self, images: Path, cache: Path, epochs: int) -> None:
        super().__init__()
        self.images, self.cache, self.epochs = images, cache, epochs

    def prepare_data(self) -> None:
        """Lightning calls this once per machine, before it starts other processes."""
        print(prewarm(self.images, self.cache, variants=2))

    def setup(self, stage: str) -> None:
        self.replace = ReplaceBackground(self.cache, p=Linear(0.2, 0.8, epochs=self.epochs))
        transform = v2.Compose(
            [
                self.replace,
                v2.RandomResizedCrop(64, antialias=True),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        self.dataset = ImageFolder(self.images, transform)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)


class Classifier(lightning.LightningModule):
    """A ResNet-18."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = models.resnet18(num_classes=classes)

    def on_train_epoch_start(self) -> None:
        self.trainer.datamodule.replace.set_epoch(self.current_epoch)

    def training_step(self, batch, _):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 3e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
    )
    images = Images(arguments.images, arguments.cache, arguments.epochs)
    trainer.fit(Classifier(len(ImageFolder(arguments.images).classes)), images)
    print(f"loss {trainer.callback_metrics['loss']:.3f}", images.replace.counts)


if __name__ == "__main__":
    main()
