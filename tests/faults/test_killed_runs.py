"""Prewarms and trainings that are killed at random moments: the next run completes, with the same bytes as without."""

import os
import random
import re
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from augment import Cache, cli
from augment.store.verify import verify
from augment.testing.pictures import scene
from augment.torchvision import ReplaceBackground
from tests import simple

pytestmark = [pytest.mark.faults, pytest.mark.slow]

IMAGES, KILLS = 10, 4  # kills of one run, which goes on each time, before it has to complete
_fork = get_context("fork")  # the imports take longer than the run


def _prewarm(folder):
    os.setsid()
    sys.argv = ["augment", "prewarm", str(folder / "images"), "--cache", str(folder / "cache")]
    sys.argv += ["--recipe", str(folder / "simple.toml"), "--variants", "2", "--workers", "2"]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    cli.main()


def _train(folder):
    os.setsid()
    torch.set_num_threads(1)
    replace = ReplaceBackground(Cache(folder / "cache"), p=1, on_miss="compute", recipe="simple")
    images = list((folder / "images").iterdir())
    for _ in DataLoader(images, batch_size=None, num_workers=2, collate_fn=lambda path: replace(Image.open(path)).size):
        pass


def start(run, folder):
    process = _fork.Process(target=run, args=(folder,))
    process.start()
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of an undisturbed run, its payloads by name, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "images").mkdir()
    for number in range(IMAGES):  # without classes, which a training does not know
        Image.fromarray(scene(number)[0]).save(folder / "images" / f"{number}.png")
    (folder / "simple.toml").write_text(simple.recipe().to_toml())
    started = time.monotonic()
    process = start(_prewarm, folder)
    process.join()
    assert process.exitcode == 0
    return folder, payloads(folder / "cache"), time.monotonic() - started


def payloads(folder):
    cache = Cache(folder)
    found = {name: bytes(cache.get(name)) for name in cache.names()}
    cache.close()
    return found


def children(pid):
    """The processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found.append(int(path.parent.name))
    return found


def kill(process, victim, draw):
    """Kill the run itself, or one of its workers, which is waited for; whether there was anything left to kill."""
    while process.is_alive():
        victims = [process.pid] if victim == "itself" else children(process.pid)
        try:
            os.kill(draw.choice(victims), signal.SIGKILL)
        except (IndexError, ProcessLookupError):  # there is none, or it has just ended
            time.sleep(0.005)
        else:
            process.join(60)
            return True
    return False


def only_left_overs(folder):
    """How many files are left over; nothing else may be wrong."""
    cache = Cache(folder)
    wrong = verify(cache).wrong
    cache.close()
    assert all(re.search("no entry has it|half written", one) for one in wrong), wrong
    return len(wrong)


VICTIMS = {  # what runs, who is killed, how far into an undisturbed run, and how many runs
    "a prewarm": (_prewarm, "itself", 1.0, 2, 30),
    "a worker that decodes": (_prewarm, "a worker", 1.0, 1, 12),
    "a worker that computes while training": (_train, "a worker", 0.4, 1, 12),
}


@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.parametrize("name", VICTIMS)
def test_a_killed_run_loses_nothing_and_the_next_one_makes_the_same(undisturbed, tmp_path, tries, name):
    source, expected, seconds = undisturbed
    run, victim, share, short, long = VICTIMS[name]
    draw, killed, left_over, stages = random.Random(name), 0, 0, set()
    for number in range(tries(short, long)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for part in ("images", "simple.toml"):
            (folder / part).symlink_to(source / part)
        if run is _train:  # a training computes only what a recipe of the cache says
            Cache(folder / "cache").add_record(simple.recipe().record(2))
        for _ in range(KILLS):
            process = start(run, folder)
            time.sleep(draw.uniform(0, share * seconds))
            killed += kill(process, victim, draw)
            if (folder / "cache" / "store.json").exists():
                left_over += only_left_overs(folder / "cache")
                found = payloads(folder / "cache")
                assert found.items() <= expected.items()
                stages.add(len({part.split("/")[0] for part in found}))
        for path in (folder / "cache").rglob("*.tmp"):
            os.utime(path, (0, 0))  # half-written files are removed after a minute
        process = start(_prewarm, folder)
        process.join(120)
        assert process.exitcode == 0
        assert payloads(folder / "cache") == expected
        assert only_left_overs(folder / "cache") == 0
    assert killed >= tries(short, long)
    print(f"{name}: {killed} kills of runs of {seconds:.1f} s at {len(stages)} depths; {left_over} files left over")
