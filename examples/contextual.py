"""Generate an image from text and repaint its objects in context, as `augment scenes` does.

    python examples/contextual.py -o out --recipe webui

No photograph is needed. The recipe's generator makes an image from the prompt. Then, in each round, its detector finds
the objects in the image, its language model writes a sub-prompt for each object, and its inpainter repaints them. Every
step is written to `out`, with a `trace.json` that lists the sub-prompt of each object in each round. `--recipe` takes a
preset or a TOML file. It sets the servers and their models (`augment recipes webui` prints one to start from). With
`--cache`, the images become backgrounds of that cache.
"""

import argparse

import augment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default="contextual")
    parser.add_argument("--cache", default=None)
    parser.add_argument("--recipe", default="webui", help="a preset or a TOML file, with a table [enrich]")
    parser.add_argument("--prompt", default="full body, city background, walking")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--depth", type=int, default=None, help="number of rounds; the recipe's by default")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("WIDTH", "HEIGHT"))
    arguments = parser.parse_args()

    width, height = arguments.size
    report = augment.scenes(
        arguments.prompt,
        arguments.cache,
        arguments.recipe,
        output=arguments.output,
        count=arguments.count,
        depth=arguments.depth,
        size=(height, width),
    )
    print(report)


if __name__ == "__main__":
    main()
