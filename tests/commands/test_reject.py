"""`augment reject`: marked mattes and backgrounds are not used any more, and backgrounds are drawn anew."""

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from augment import Cache, prewarm
from augment.artifacts import BACKGROUND, MATTE
from augment.chain import Chain
from augment.cli import app
from augment.commands.reject import reject
from augment.errors import AugmentError
from augment.keys import image_key
from augment.store.pack import Pack
from augment.store.packing import export_pack, import_pack
from augment.store.reader import Reader
from augment.store.verify import verify
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ReplaceBackground
from tests import simple
from tests.enriching import SUBSTAGES
from tests.filled import VARIANTS, counted, fill


@pytest.fixture
def store(tmp_path):
    """A cache of eight scenes, their paths, a reader, and the key of the first one."""
    cache, paths = fill(tmp_path)
    with PIL.Image.open(paths[0]) as file:
        key = image_key(file)
    return cache, paths, Reader(cache, simple.recipe().record(VARIANTS)), key


def run(*arguments):
    done = CliRunner().invoke(app, ["reject", *map(str, arguments)])
    return done.exit_code, done.output + (str(done.exception) if isinstance(done.exception, AugmentError) else "")


def again(cache, paths):
    simple.CALLS.clear()
    return prewarm(paths, cache, simple.recipe(), variants=VARIANTS, workers=0, progress=False)


def test_a_rejected_background_is_drawn_anew_with_the_next_seed(store):
    cache, paths, reader, key = store
    before = reader.get(BACKGROUND, key, 1)
    rejection = reject(cache, [reader.name(BACKGROUND, key, 1)])
    assert (rejection.mattes, rejection.backgrounds, rejection.unknown) == (0, 1, [])
    assert reader.get(BACKGROUND, key, 1) is None
    report = again(cache, paths)
    assert (report.complete, simple.CALLS["generate"], simple.CALLS["refine"]) == (8, 1, 0)
    drawn = reader.get(BACKGROUND, key, 1)
    assert not np.array_equal(drawn, before)
    assert cache.provenance(reader.name(BACKGROUND, key, 1))["attempt"] == 1
    assert not verify(cache).wrong


def test_what_is_rejected_again_is_drawn_with_yet_another_seed(store):
    cache, paths, reader, key = store
    name, drawn = reader.name(BACKGROUND, key, 0), [reader.get(BACKGROUND, key, 0)]
    for _ in range(3):
        reject(cache, [name])
        again(cache, paths)
        drawn.append(reader.get(BACKGROUND, key, 0))
    assert cache.provenance(name)["attempt"] == 3
    assert len({image.tobytes() for image in drawn}) == 4


def test_other_backgrounds_stay_byte_for_byte(store):
    cache, paths, reader, key = store
    kept = {name: bytes(cache.get(name)) for name in cache.names() if name != reader.name(BACKGROUND, key, 1)}
    reject(cache, [reader.name(BACKGROUND, key, 1)])
    again(cache, paths)
    assert all(bytes(cache.get(name)) == data for name, data in kept.items())


def test_a_rejected_matte_is_unusable_for_training_and_stays_so(store):
    cache, paths, reader, key = store
    assert reject(cache, [reader.name(MATTE, key)]).mattes == 1
    report = again(cache, paths)
    assert (report.complete, report.unusable) == (7, {"rejected by a person": 1})
    assert simple.CALLS["remove"] == 0
    replace = ReplaceBackground(cache, p=1.0)
    with PIL.Image.open(paths[0]) as file:
        replace(file.convert("RGB"))
    assert counted(replace)["unusable"] == 1


def test_a_rejected_matte_takes_its_image_out_of_the_pool(store):
    cache, _, reader, key = store
    assert key in cache.pool(reader.record).entries()
    reject(cache, [reader.name(MATTE, key)])
    assert key not in cache.pool(reader.record).entries()


def test_an_enriched_background_is_drawn_anew_from_its_first_draft_on(tmp_path):
    recipe = simple.recipe().changed({"enrich": {"backend": "contextual", **SUBSTAGES}})
    cache, paths = Cache(tmp_path / "cache"), write_folder(tmp_path / "images", 1)
    prewarm(paths, cache, recipe, workers=0, progress=False)
    chain = Chain(recipe, cache)
    key = image_key(scene(0)[0])
    draft, final = (chain.name(kind, key, 0) for kind in (simple.GENERATE, chain.final))
    before = [bytes(cache.get(name)) for name in (draft, final)]
    assert reject(cache, [final]).backgrounds == 1
    prewarm(paths, cache, recipe, workers=0, progress=False)
    assert all(bytes(cache.get(name)) != data for name, data in zip((draft, final), before, strict=True))
    assert cache.provenance(draft)["attempt"] == 1


def test_the_command_takes_a_list_with_comments_and_says_what_is_unknown(store, tmp_path):
    cache, _, reader, key = store
    (tmp_path / "bad.txt").write_text(
        f"# from the gallery\n\n{reader.name(MATTE, key)}  # 000.png\nbackground/0123/ffff/0\nnonsense\n"
    )
    code, output = run(cache.directory, tmp_path / "bad.txt")
    assert code == 1
    assert output == (
        "rejected mattes: 1, backgrounds: 0\nnot in the cache: background/0123/ffff/0\nnot in the cache: nonsense\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the list cannot be read: No such file"),
        (b"", "names nothing: mark images in the gallery"),
        (b"\x89PNG\xff\xfe", "is not a text file"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_sentence(store, tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.txt").write_bytes(content)
    code, output = run(store[0].directory, tmp_path / "bad.txt")
    assert code != 0
    assert message in output


def test_what_was_rejected_does_not_come_back_with_a_pack(store, tmp_path):
    cache, _, reader, key = store
    export_pack(cache, tmp_path / "pack")
    other = next(one for one in reader.keys(MATTE) if one != key)
    reject(cache, [reader.name(BACKGROUND, key, 1), reader.name(MATTE, other)])
    assert import_pack(Pack(tmp_path / "pack"), cache) == 0
    assert reader.get(BACKGROUND, key, 1) is None
    assert reader.get(MATTE, other).unusable
    assert cache.pool(reader.record).entries().keys() == {one for one in reader.keys(MATTE) if one != other}


def test_a_pack_cannot_be_changed(store, tmp_path):
    export_pack(store[0], tmp_path / "pack")
    (tmp_path / "bad.txt").write_text("matte/0/0\n")
    assert "which cannot be changed" in run(tmp_path / "pack", tmp_path / "bad.txt")[1]
