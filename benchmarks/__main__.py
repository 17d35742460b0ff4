"""`python -m benchmarks NAME [options]`: run a benchmark; without a name, list them."""

import sys
from importlib import import_module
from pathlib import Path

import typer

_FOLDER = Path(__file__).parent
_HELPERS = {"budget", "samples", "timing"}


def main() -> None:
    names = sorted(p.stem for p in _FOLDER.glob("[!_]*.py") if p.stem not in _HELPERS)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m benchmarks {{{','.join(names)}}} [--help]")
    name = sys.argv.pop(1)
    app = typer.Typer(add_completion=False)
    app.command()(import_module(f"benchmarks.{name}").main)
    app(prog_name=f"python -m benchmarks {name}")


if __name__ == "__main__":  # not when a spawned process imports it
    main()
