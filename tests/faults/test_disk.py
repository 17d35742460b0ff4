"""A disk that is full, files that may not grow, rights that are lost: one sentence, nothing wrong is kept, and the same
call works once there is room."""

import gc
import os
import resource
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from augment import Cache
from augment.commands.run import run
from augment.errors import AugmentError
from augment.prewarming import Failure, Report
from augment.store.packing import export_pack
from augment.store.pool import PoolEntry
from augment.store.verify import verify
from tests import simple
from tests.faults.filled import LARGE, RECORD, copy, fill, key, read

pytestmark = pytest.mark.faults

PHOTO = Path(__file__).parents[2] / "examples" / "before_after.jpg"
MANY = 6000  # entries that fill a few hundred kilobytes of an index
REPORT = Report(failures=[Failure(f"image {n}", "generate", "it is broken " * 9) for n in range(3000)])


def _run(folder):
    run(PHOTO, folder / "out", simple.recipe())


# What writes, each to a folder that holds a cache.
WRITES = {
    "a small entry": lambda folder: Cache(folder / "cache").put("matte/f1/" + key(50), bytes(9000), {}),
    "an entry with a file": lambda folder: Cache(folder / "cache").put("other/f1/" + key(50), LARGE * 9, {}),
    "many entries": lambda folder: [Cache(folder / "cache").put(f"x/{n}", bytes(9000), {}) for n in range(60)],
    "a recipe": lambda folder: [Cache(folder / "cache").add_record(RECORD) for _ in range(3)],
    "a pool's index": lambda folder: Cache(folder / "cache").add_to_pool(
        RECORD, {key(n): PoolEntry("cup", 0.2, 1) for n in range(MANY)}
    ),
    "the index of paths": lambda folder: Cache(folder / "cache").add_paths([(f"/{n}", key(n)) for n in range(MANY)]),
    "a miss": lambda folder: [Cache(folder / "cache").note_miss(RECORD, key(n)) for n in range(200, 250)],
    "misses that were found": lambda folder: Cache(folder / "cache").misses(RECORD).remove({key(99)}),
    "settings": lambda folder: Cache(folder / "cache", quality=70 + len(os.listdir(folder / "cache"))),
    "a new cache": lambda folder: Cache(folder / "new").put("a", bytes(9000), {}),
    "a report as CSV": lambda folder: REPORT.save(folder / "report.csv"),
    "a report as JSON": lambda folder: REPORT.save(folder / "report.json"),
    "a pack": lambda folder: export_pack(Cache(folder / "cache"), _new(folder / "pack")),
    "pictures of a run": _run,
}


def _new(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def attempt(name, folder):
    """What the call says if it fails; None if it does not. Any other error than one of ours is raised."""
    try:
        WRITES[name](folder)
    except AugmentError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "cache"
    return folder, fill(folder, images=3)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small file system."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path_factory.mktemp("disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def only(disk, nbytes):
    """No more than so many bytes are left."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            filler.truncate(max(0, filler.tell() // 4096 * 4096 - nbytes))
    try:
        yield
    finally:
        (disk / "filler").unlink()


@pytest.mark.parametrize("left", [0, 20480])
@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_is_said_and_harms_nothing(whole, disk, name, left):
    folder = disk / "work"
    shutil.rmtree(folder, ignore_errors=True)
    gc.collect()  # caches that are still open hold space
    folder.mkdir()
    copy(whole[0], folder / "cache")
    with only(disk, left):
        said = attempt(name, folder)
        read(folder / "cache", whole[1])
    # SQLite cannot read a database either without room for the index of its log.
    words = ("full", "No space left", "I/O", "nothing to export")
    assert said is None or ("\n" not in said and any(word in said for word in words)), said
    assert left or said is not None or name in ("a miss", "misses that were found")
    check(whole, folder, name)


def check(whole, folder, name):
    """Nothing is lost or wrong, and now the same call works."""
    Cache(folder / "cache").mend()
    assert verify(Cache(folder / "cache")).wrong == []
    assert read(folder / "cache", whole[1]) == len(whole[1])
    assert len(Cache(folder / "cache").pool(RECORD)) >= 3
    assert attempt(name, folder) is None
    if (folder / "new").exists():
        assert verify(Cache(folder / "new")).wrong == []


def _limited(name, folder, limit, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        said.put((attempt(name, folder), None))
    except BaseException as error:
        said.put((None, repr(error)))


@pytest.mark.parametrize("limit", [0, 20_000])
@pytest.mark.parametrize("name", WRITES)
def test_files_that_may_not_grow_are_said_and_harm_nothing(whole, tmp_path, name, limit):
    copy(whole[0], tmp_path / "cache")
    answers = get_context("fork").SimpleQueue()
    process = get_context("fork").Process(target=_limited, args=(name, tmp_path, limit, answers))
    process.start()
    said, other = answers.get()
    process.join()
    assert other is None
    assert said is None or "\n" not in said
    check(whole, tmp_path, name)


def _as_nobody(name, folder, said):
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    _limited(name, folder, resource.RLIM_INFINITY, said)


@pytest.mark.parametrize("name", [name for name in WRITES if name != "pictures of a run"])
def test_a_lost_permission_is_said_and_harms_nothing(whole, name):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy(whole[0], folder / "cache")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        answers = get_context("fork").SimpleQueue()
        process = get_context("fork").Process(target=_as_nobody, args=(name, folder, answers))
        process.start()
        said, other = answers.get()
        process.join()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert other is None
        assert said is not None
        assert "\n" not in said
        check(whole, folder, name)
