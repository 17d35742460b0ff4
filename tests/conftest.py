"""Real parts as fixtures, and what must be in the environment before the libraries are imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from augment.testing import parts
from tests import simple
from tests.filled import fill

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # `import albumentations` asks the network for a newer version
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch a model

# A package that brings backends of its own, as an installed one would; for processes that tests start, too.
_PLUGIN = Path(__file__).parent / "plugin"
sys.path.insert(0, str(_PLUGIN))
_PATHS = [str(Path(__file__).parents[1]), str(_PLUGIN), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of tests/faults to run."""
    parser.addoption("--faults", choices=["short", "long"], default="short", help="how many faults to try")


@pytest.fixture(scope="session")
def tries(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many faults to try: the first number, or the second one with --faults=long."""
    return lambda short, long: long if request.config.getoption("--faults") == "long" else short


@pytest.fixture(autouse=True)
def _no_calls_so_far() -> None:
    """Each test counts the calls of simple stages from 0."""
    simple.CALLS.clear()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache of a few scenes, and what else `tests.filled.fill` gives."""
    return fill(tmp_path_factory.mktemp("filled"))


@pytest.fixture
def cache(filled):
    """The filled cache."""
    return filled[0]


@pytest.fixture
def image(filled):
    """The first image of the filled cache."""
    with PIL.Image.open(filled[1][0]) as file:
        return file.convert("RGB")


def _real(part: Callable[[], Path]) -> Path:
    """The part; where it cannot be had the test skips with the reason, or fails where AUGMENT_REQUIRE_REAL is 1."""
    try:
        return part()
    except parts.PartMissing as error:
        if os.environ.get("AUGMENT_REQUIRE_REAL") == "1":
            pytest.fail(f"AUGMENT_REQUIRE_REAL=1 and this part is missing: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stamps() -> Path:
    """The folder of cut-out objects with true alpha."""
    return _real(parts.stamps)


@pytest.fixture(scope="session")
def wallpapers() -> Path:
    """The folder of photographs of places."""
    return _real(parts.wallpapers)


@pytest.fixture(scope="session")
def isnet() -> Path:
    """The ISNet ONNX file."""
    return _real(parts.isnet)


@pytest.fixture(scope="session")
def u2netp() -> Path:
    """The U²-Netp ONNX file."""
    return _real(parts.u2netp)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The SmolLM2 GGUF file that GPT4All loads."""
    return _real(parts.smollm2)


@pytest.fixture(scope="session")
def albumentationsx() -> Path:
    """A folder for PYTHONPATH that has AlbumentationsX in the place of albumentations."""
    return _real(parts.albumentationsx)
