"""A power cut, as far as it can be simulated: whatever was not synced may be cut off, or filled with zeros.

Synced are the files that `write_atomically` writes, and databases when their log is moved into them. Not synced are the
files of large values, and SQLite's logs since then.
"""

import random
import shutil
import time
from multiprocessing import get_context

import pytest

from augment import Cache
from augment.store.verify import verify
from tests.faults.filled import PARTS, RECORD, key, made
from tests.faults.test_together import IMAGES, _write

pytestmark = pytest.mark.faults
_fork = get_context("fork")


def cut_off(folder, draw):
    """Damage what was not synced."""
    for path in [*folder.rglob("*.val"), *folder.rglob("cache.db-wal"), *folder.rglob("*.txt"), *folder.rglob("*.tmp")]:
        data, fate = path.read_bytes(), draw.choice(["whole", "empty", "cut", "zeros"])
        place = draw.randrange(len(data) + 1)
        left = {"whole": data, "empty": b"", "cut": data[:place], "zeros": data[:place] + bytes(len(data) - place)}
        path.write_bytes(left[fate])
    for path in folder.rglob("cache.db-shm"):
        path.unlink()  # memory of the processes that ended


def test_a_power_cut_costs_entries_and_makes_none_wrong(tmp_path, tries):
    draw, lost = random.Random(5), 0
    for number in range(tries(4, 100)):
        folder = tmp_path / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        counts = _fork.SimpleQueue()
        process = _fork.Process(target=_write, args=(folder, number, 60, counts))
        process.start()
        while counts.empty():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.join()
        cut_off(folder, draw)
        cache = Cache(folder)
        for image in range(IMAGES):
            for part in PARTS:
                found = cache.get(f"{part}/{key(image)}")
                assert found is None or bytes(found) == made(part, image)
        assert all(record == RECORD for record in cache.recipes())
        cache.pool(RECORD)
        cache.mend()
        lost += len(verify(cache, repair=True).wrong)
        assert verify(cache).wrong == []
        for part in PARTS:
            cache.put(f"{part}/{key(0)}", made(part, 0), {})
            assert bytes(cache.get(f"{part}/{key(0)}")) == made(part, 0)
        cache.close()
    print(f"{lost} entries or files were lost in {tries(4, 100)} cuts")
