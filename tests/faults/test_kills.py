"""A writer that is killed at random moments: nothing that it finished is lost, and what is left over is removed."""

import random
import signal
import subprocess
import sys
import time

import pytest

from augment import Cache
from augment.store.verify import verify
from tests.faults.filled import PARTS, made

pytestmark = pytest.mark.faults

WRITER = """
import sys
from augment import Cache
from augment.store.pool import PoolEntry
from tests.faults.filled import PARTS, RECORD, key, made
cache = Cache(sys.argv[1], size_limit=int(sys.argv[2]) or None)
number = 0
while True:
    for part in PARTS:
        cache.put(f"{part}/{key(number)}", made(part, number), {})
    cache.add_record(RECORD)
    cache.add_to_pool(RECORD, {key(number): PoolEntry(None, 0.5, 1)})
    cache.add_paths([(f"/images/{number}.png", key(number))])
    print(number, flush=True)
    number = (number + 1) % 40  # later rounds replace entries
"""


@pytest.mark.parametrize("limit", [0, 2_500_000])
def test_a_writer_killed_at_random_moments_loses_nothing_that_it_finished(tmp_path, tries, limit):
    draw, finished, left_over = random.Random(limit), set(), 0
    for _ in range(tries(4, 100)):
        arguments = [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(limit)]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(draw.uniform(0, 0.6))
        writer.send_signal(signal.SIGKILL)
        finished |= {int(line) for line in ["0", *writer.stdout.read().split("\n")[:-1]]}
        writer.wait()
        writer.stdout.close()
        cache = Cache(tmp_path / "cache")
        found = verify(cache)
        left_over += len(found.wrong)
        assert all("no entry has it" in wrong or "half written" in wrong for wrong in found.wrong), found.wrong
        verify(cache, repair=True)
        assert verify(cache).wrong == []
        assert len(cache.recipes()) == 1
        check(cache, finished, limit)
    print(f"{left_over} files were left over")


def check(cache, finished, limit):
    """Every finished image is there, whole; with a limit, an image that has its background has its matte."""
    names = set(cache.names())
    for number in finished:
        key = f"{number:032x}"
        for part in PARTS:
            payload = cache.get(f"{part}/{key}")
            assert payload is not None or limit
            assert payload is None or bytes(payload) == made(part, number)
        assert f"matte/f1/{key}" in names or f"background/f2/{key}" not in names
        assert cache.keys_at(f"/images/{number}.png") == [key]
