"""Train an Ultralytics detector on a YOLO dataset whose objects were put onto new backgrounds.

    python examples/ultralytics_yolo.py path/to/dataset path/to/new --cache path/to/cache

`path/to/dataset` holds data.yaml, images/train, labels/train, images/val and labels/val. The composites are written as
a dataset of the same layout, and validation images stay as they are. Ultralytics depends on `opencv-python`: see the
README on how to install both, or train in a separate environment.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from ultralytics import YOLO

from augment import prewarm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("augment-cache"))
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--model", default="yolo11n.pt", help="weights, or a .yaml file to train from scratch")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--device", default=None)
    arguments = parser.parse_args()

    print(prewarm(arguments.dataset / "images" / "train", arguments.cache, variants=2))
    command = [
        "apply",
        arguments.dataset,
        "--cache",
        arguments.cache,
        "-o",
        arguments.new,
        "--copies",
        arguments.copies,
    ]
    moves = ["--scale", 0.7, 1.2, "--translate", "uniform", "--flip", 0.5]
    subprocess.run([sys.executable, "-m", "augment", *map(str, command + moves)], check=True)
    YOLO(arguments.model).train(
        data=arguments.new / "data.yaml", epochs=arguments.epochs, imgsz=arguments.size, device=arguments.device
    )


if __name__ == "__main__":
    main()
