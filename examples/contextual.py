"""Generate an image from text and repaint its objects in context, using a recipe's stages directly.

    python examples/contextual.py -o out --recipe webui

No photograph is needed. The recipe's generator makes an image from the prompt. Then, in each round, its detector finds
the objects in the image, its language model writes a sub-prompt for each object, and its inpainter repaints them. Every
step is written to `out`, with a `trace.json` that lists the sub-prompt of each object in each round. `--recipe` takes a
preset or a TOML file. It sets the servers and their models (`augment recipes webui` prints one to start from).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import PIL.Image

from augment import Recipe
from augment.artifacts import Image, Prompt, Rejected
from augment.errors import AugmentError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("contextual"))
    parser.add_argument("--recipe", default="webui", help="a preset or a TOML file, with a table [enrich]")
    parser.add_argument("--prompt", default="full body, city background, walking")
    parser.add_argument("--negative", default="text, watermark, blurry, low quality")
    parser.add_argument("--depth", type=int, default=None, help="number of rounds; the recipe's by default")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    recipe = Recipe.load(arguments.recipe).changed({"enrich.keep_steps": True})
    if arguments.depth is not None:
        recipe = recipe.changed({"enrich.depth": arguments.depth})
    for name in ("generate", "enrich.detector", "enrich.chat", "enrich.inpainter"):
        recipe.all_stages[name].check()  # raises now if anything is missing, and says how to get it

    # There is no photograph, so a blank plate gives the size.
    width, height = arguments.size
    plate = np.full((height, width, 3), 127, np.uint8)
    prompt = Prompt(arguments.prompt, arguments.negative)

    (image,) = recipe.generate(prompts=[prompt], plates=[plate], seeds=[arguments.seed])
    save(image, arguments.output / "0-generated.png")
    recipe.generate.unload()
    (enriched,) = recipe.enrich(drafts=[image], prompts=[prompt], groups=[None], seeds=[arguments.seed])
    if isinstance(enriched, Rejected | AugmentError):
        raise SystemExit(f"no enriched image: {enriched}")
    for step in enriched.steps:
        print(f"round {step.round}, {step.label}: {step.prompt.text} ({step.prompt.origin})")
        save(step.image, arguments.output / f"{step.name}.png")
    save(enriched.image, arguments.output / "enriched.png")
    trace = {"prompt": prompt.text, "seed": arguments.seed, "steps": [step.record() for step in enriched.steps]}
    (arguments.output / "trace.json").write_text(json.dumps(trace, indent=1))
    print(f"{len(enriched.steps)} objects repainted: {arguments.output}")


def save(image: Image | Rejected | AugmentError, path: Path) -> None:
    if isinstance(image, Rejected | AugmentError):
        raise SystemExit(f"no image: {image}")
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)


if __name__ == "__main__":
    main()
