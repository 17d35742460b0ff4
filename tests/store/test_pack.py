"""Packs: what a store promises, what other tools read, what a stranger's tar must not do."""

import io
import json
import os
import subprocess
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from typer.testing import CliRunner

from augment import Cache, open_store, prewarm
from augment.cli import app
from augment.errors import InputError, StoreError
from augment.store.pack import Pack, PackIndex
from augment.store.packing import export_pack, import_pack
from augment.store.records import Record
from augment.store.scenes import scenes_among
from augment.testing import StoreTests
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ReplaceBackground
from tests import simple


class TestPackAsAStore(StoreTests):
    """A pack keeps what every store promises."""

    def make(self, folder, entries, record, pool, paths):
        cache = Cache(folder.with_name("cache"))
        for name, (payload, provenance) in entries.items():
            cache.put(name, payload, provenance)
        cache.add_record(record)
        cache.add_to_pool(record, pool)
        cache.add_paths(paths.items())
        cache.add_scenes(scenes_among(entries))
        export_pack(cache, folder, shard_nbytes=30_000)
        return Pack(folder)

    def damage(self, store, name):
        place = store.index.find(name)
        with (store.directory / store.index.shards[place.shard]).open("r+b") as file:
            file.seek(place.payload + place.size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with unequal variants and an unusable matte, its images' folder, and a pack of it."""
    folder = tmp_path_factory.mktemp("packed")
    paths = write_folder(folder / "images", 6)
    PIL.Image.new("RGB", (112, 96), (90, 90, 90)).save(folder / "images" / "cup" / "empty.png")
    cache = Cache(folder / "cache", codec="jpeg")
    prewarm(folder / "images", cache, simple.recipe(), workers=0, progress=False)
    prewarm(paths[:2], cache, simple.recipe(), variants=3, workers=0, progress=False)
    export_pack(cache, folder / "pack")
    return cache, folder


def contents(cache):
    return {name: bytes(cache.get(name)) for name in cache.names()}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_dataloader_trains_from_a_pack(filled, workers, context):
    _, folder = filled
    replace = ReplaceBackground(folder / "pack", p=1)
    dataset = ImageFolder(folder / "images", v2.Compose([replace, v2.PILToTensor()]))
    loader = DataLoader(dataset, 2, num_workers=workers, multiprocessing_context=context if workers else None)
    assert sum(len(images) for images, _ in loader) == 7
    assert (replace.counts["hits"], replace.counts["misses"], replace.counts["unusable"]) == (6, 0, 1)


def test_export_and_import_give_the_same_cache(filled, tmp_path):
    cache, folder = filled
    copy = Cache(tmp_path / "copy")
    assert import_pack(Pack(folder / "pack"), copy) == len(contents(cache))
    assert contents(copy) == contents(cache)
    assert copy.recipes() == cache.recipes()
    assert copy.pool(copy.recipes()[0]).entries() == cache.pool(cache.recipes()[0]).entries()
    path = str(next((folder / "images").rglob("*.png")))
    assert copy.keys_at(path) == cache.keys_at(path) != []
    assert import_pack(Pack(folder / "pack"), copy) == 0


def test_packs_of_two_halves_merge(tmp_path):
    images = [scene(seed)[0] for seed in range(4)]
    for number, part in enumerate((images[:2], images[2:])):
        prewarm(part, tmp_path / f"c{number}", simple.recipe(), workers=0, progress=False)
        export_pack(Cache(tmp_path / f"c{number}"), tmp_path / f"p{number}")
    merged = Cache(tmp_path / "merged")
    for number in range(2):
        import_pack(Pack(tmp_path / f"p{number}"), merged)
    report = prewarm(images, merged, simple.recipe(), workers=0, progress=False)
    assert (report.complete, report.nbytes) == (4, 0)


def test_the_selection_leaves_plates_out(filled, tmp_path):
    export_pack(filled[0], tmp_path / "pack", {"background", "matte"})
    pack = Pack(tmp_path / "pack")
    assert {name.split("/")[0] for name in pack.names()} == {"background", "matte"}
    with pytest.raises(InputError, match="select: plates not among"):
        export_pack(filled[0], tmp_path / "other", {"plates"})


def test_tar_lists_rows_of_equal_members(filled):
    for shard in Pack(filled[1] / "pack").index.shards:
        done = subprocess.run(
            ["tar", "--list", "--file", str(filled[1] / "pack" / shard)], capture_output=True, text=True, check=True
        )
        rows = {}
        for name in done.stdout.split():
            base, _, extension = name.partition(".")
            rows.setdefault(base, []).append(extension)
        assert len({tuple(members) for members in rows.values()}) == 1
        assert all("json" in members for members in rows.values())


def test_hugging_face_datasets_reads_backgrounds(filled, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    (shard,) = (str(path) for path in (filled[1] / "pack").glob("background-*.tar"))
    rows = datasets.load_dataset("webdataset", data_files=shard, split="train", cache_dir=str(tmp_path), streaming=True)
    rows = list(rows)
    assert len(rows) == 10  # six images, two of them with three variants
    assert {row["background.jpg"].size for row in rows} == {(112, 96)}
    assert all(row["json"]["recipe"] == "simple" for row in rows)


def test_a_damaged_index_or_a_missing_end_is_no_pack(filled, tmp_path):
    export_pack(filled[0], tmp_path / "pack")
    whole = (tmp_path / "pack" / "index.bin").read_bytes()
    for data in (whole[:-1], whole[:40] + b"x" + whole[41:], b""):
        (tmp_path / "pack" / "index.bin").write_bytes(data)
        with pytest.raises(StoreError, match="export or copy the pack again"):
            open_store(tmp_path / "pack")
    (tmp_path / "pack" / "index.bin").write_bytes(whole)
    (tmp_path / "pack" / "store.json").unlink()
    with pytest.raises(StoreError):
        open_store(tmp_path / "pack")


def hostile(kind):
    member = tarfile.TarInfo("a" * 32 + ".matte.bin")
    member.size = 4
    if kind == "leaving":
        member.name = "../../escaped.bin"
    elif kind == "absolute":
        member.name = "/tmp/escaped.bin"
    elif kind == "link":
        member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
    elif kind == "device":
        member.type, member.size = tarfile.CHRTYPE, 0
    elif kind == "huge":
        member.size = 2**40
    header = member.tobuf(tarfile.GNU_FORMAT)
    return header + b"data".ljust(512, b"\0") + b"\0" * 1024


@pytest.mark.parametrize("kind", ["leaving", "absolute", "link", "device", "huge"])
def test_a_hostile_shard_is_refused_in_one_sentence_and_nothing_is_written(filled, tmp_path, kind):
    export_pack(filled[0], tmp_path / "pack")
    pack = Pack(tmp_path / "pack")
    (tmp_path / "pack" / pack.index.shards[0]).write_bytes(hostile(kind))
    cache = Cache(tmp_path / "cache")
    with pytest.raises(StoreError, match="nothing was imported") as caught:
        import_pack(pack, cache)
    assert "\n" not in str(caught.value)
    assert list(cache.names()) == []
    assert not (tmp_path / "escaped.bin").exists()


def test_an_index_that_names_other_files_is_refused(filled, tmp_path):
    export_pack(filled[0], tmp_path / "pack")
    index = PackIndex.load(tmp_path / "pack" / "index.bin")
    for shards, others in ((["../x.tar"], []), ([], ["../../etc/passwd"])):
        PackIndex.save(tmp_path / "pack" / "index.bin", shards, others, {})
        with pytest.raises(StoreError, match="names files outside the pack"):
            Pack(tmp_path / "pack")
    assert index.shards


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
def test_a_pack_serves_a_user_who_may_not_write(filled):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_pack(filled[0], folder / "pack")
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        read_as_nobody(folder / "pack")


def read_as_nobody(folder):
    """Read everything in a process of another user; its error, if there is one, is raised here."""
    open_store(folder)  # imports what it takes, which another user may not be able to
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            store = open_store(folder)
            names = list(store.names())
            assert names
            assert all(store.get(name) is not None for name in names)
            store.pool(store.recipes()[-1])
            store.note_miss(store.recipes()[-1], "0" * 32)
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == ""


@pytest.fixture
def web(tmp_path):
    """A folder served over HTTP: its address and the folder."""
    (tmp_path / "web").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    handler.log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "web"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_pack_behind_a_url_is_brought_here_once(filled, web, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("AUGMENT_PACKS", str(tmp_path / "packs"))
    url, folder = web
    export_pack(filled[0], folder / "pack")
    store = open_store(f"{url}/pack")
    assert sum(store.get(name) is not None for name in store.names()) == len(store.index.names)
    for path in folder.rglob("*.tar"):
        path.unlink()
    assert open_store(f"{url}/pack").location == store.location
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(f"{url}/nothing")


def test_the_command_line_exports_and_imports(filled, tmp_path):
    runner, cache = CliRunner(), str(filled[0].directory)
    done = runner.invoke(app, ["export", cache, f"memory://{tmp_path.name}/pack"])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["export", cache, str(tmp_path / "pack")])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["import", str(tmp_path / "pack"), str(tmp_path / "cache")])
    assert "artifacts imported" in done.output
    again = runner.invoke(app, ["export", cache, str(tmp_path / "pack")])
    assert isinstance(again.exception, InputError)
    assert "is not empty" in str(again.exception)


def test_raw_backgrounds_come_without_a_copy_that_cannot_be_written(tmp_path):
    cache = Cache(tmp_path / "cache", codec="raw")
    prewarm([scene(0)[0]], cache, simple.recipe(), workers=0, progress=False)
    export_pack(cache, tmp_path / "pack")
    replace = ReplaceBackground(tmp_path / "pack", p=1)
    image = PIL.Image.fromarray(scene(0)[0])
    assert (np.asarray(replace(image)) != np.asarray(image)).any()
    (shard,) = (tmp_path / "pack").glob("background-*.tar")
    with tarfile.open(shard) as archive:
        row = archive.getnames()
        provenance = json.load(io.TextIOWrapper(archive.extractfile(row[1])))
    assert row[0].endswith(".background.raw")
    assert provenance["backend"] == "noise"


def test_many_threads_read_from_more_shards_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("augment.store.pack._OPEN", 3)
    cache = Cache(tmp_path / "cache")
    names = [f"plate/f{number % 8}/{number:032x}" for number in range(200)]
    for name in names:
        cache.put(name, name.encode() * 500, {})
    cache.add_record(Record("r", "", {"generate": "f0"}, {"background": "f0", "matte": "f0"}, 1))
    export_pack(cache, tmp_path / "pack", shard_nbytes=50_000)
    pack = open_store(tmp_path / "pack")
    assert len(pack.index.shards) > 8
    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            assert [bytes(data) for data in threads.map(pack.get, names)] == [name.encode() * 500 for name in names]
    assert len(pack._files) <= 3
