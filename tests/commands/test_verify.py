"""`augment verify`: what it finds, what it removes, and its exit codes."""

import pytest
from typer.testing import CliRunner

from augment.cli import app
from tests.faults.filled import fill, read


@pytest.fixture
def cache(tmp_path):
    """A cache's folder, and its entries."""
    return tmp_path / "cache", fill(tmp_path / "cache")


def run(*arguments):
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    return done.exit_code, done.output


def test_a_whole_cache_has_nothing_wrong(cache):
    folder, entries = cache
    assert run(folder) == (0, f"{len(entries)} entries, 4 other files, 0 wrong\n")


def test_what_is_wrong_is_listed_with_exit_code_1_and_removed_by_a_repair(cache):
    folder, entries = cache
    value = next(folder.rglob("*.val"))
    value.write_bytes(value.read_bytes()[:-1])
    (value.parent / ("0" * 28 + ".val")).write_bytes(b"orphan")
    (folder / "recipes" / "bad.json").write_text("{}")
    (folder / "pools" / "f2.index").write_bytes(b"torn")
    (folder / "notes.txt").write_text("of somebody")
    code, output = run(folder)
    assert code == 1
    for part in (
        "checksum",
        "no entry has it",
        "recipes/bad.json",
        "pools/f2.index",
        "4 wrong",
        "--repair",
    ):
        assert part in output
    assert value.exists()
    assert run(folder, "--repair")[0] == 1
    code, output = run(folder)
    assert (code, "0 wrong" in output) == (0, True)
    assert (folder / "notes.txt").exists()
    assert read(folder, entries) == len(entries) - 1


def test_damaged_settings_are_wrong_too(cache):
    (cache[0] / "store.json").write_text("[]")
    code, output = run(cache[0])
    assert code == 1
    assert "store.json" in output
    run(cache[0], "--repair")
    assert run(cache[0])[0] == 0


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert done.exit_code != 0
    assert not list(tmp_path.iterdir())
