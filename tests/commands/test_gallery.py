"""`augment gallery`, in a real browser: what the page shows, how it filters, and what its list of marks does."""

import json
import re
import shutil
import time

import PIL.Image
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from typer.testing import CliRunner

from augment import Cache, prewarm
from augment.artifacts import BACKGROUND, MATTE
from augment.cli import app
from augment.commands.gallery import write_gallery
from augment.commands.reject import run as reject
from augment.keys import image_key
from augment.store.packing import export_pack
from augment.store.reader import Reader
from augment.testing.pictures import write_folder
from tests import simple
from tests.filled import VARIANTS, fill

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A cache of eight scenes, one with an unusable matte and one with an odd name, and its page."""
    folder = tmp_path_factory.mktemp("gallery")
    cache, paths = fill(folder)
    odd = paths[0].with_name("<img src=x onerror=alert(1)>.png")
    PIL.Image.new("RGB", (64, 48), "gray").save(odd)
    prewarm(folder / "images", cache, simple.recipe(), variants=VARIANTS, workers=0, progress=False)
    page = folder / "gallery.html"
    assert write_gallery(cache, page, progress=False) == 9
    return cache, paths, page


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Chromium without a window; its downloads go to `chromium.downloads`."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in _FLAGS.split():
        options.add_argument(flag)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.downloads = downloads
    yield browser
    browser.quit()


@pytest.fixture
def page(store, chromium):
    """The page, freshly opened and without marks; nothing may be said on its console."""
    chromium.get(store[2].as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    chromium.get_log("browser")
    yield chromium
    assert chromium.get_log("browser") == []


def cards(page):
    return [card.get_attribute("aria-label") for card in page.find_elements(By.CSS_SELECTOR, "article")]


def choose(page, name, value):
    page.find_element(By.CSS_SELECTOR, f'#{name} option[value="{value}"]').click()


def wait_for(done):
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_image_is_shown_with_its_pictures_texts_and_verdict(page):
    assert len(cards(page)) == 9
    card = page.find_element(By.CSS_SELECTOR, 'article[aria-label="cup/000.png"]')
    titles = [cell.get_attribute("aria-label") for cell in card.find_elements(By.CSS_SELECTOR, ".cell")]
    expected = ["original", "object", "plate"]
    expected += [f"{what} {number}" for number in range(VARIANTS) for what in ("background", "composite")]
    assert titles == [f"{title} of cup/000.png" for title in expected]
    assert "complete" in card.text
    assert "a plate of 112 by 96" in card.text
    card.find_element(By.CSS_SELECTOR, "summary").click()
    assert "noise, seed" in card.text


def test_pictures_in_view_are_loaded(page):
    cell = page.find_element(By.CSS_SELECTOR, ".cell")
    wait_for(lambda: "data:image/webp" in cell.value_of_css_property("background-image"))
    size = page.execute_script(
        """const [cell, done] = arguments; const image = new Image();
        return new Promise((resolve) => { image.onload = () => resolve([image.width, image.height]);
        image.src = cell.style.backgroundImage.slice(5, -2); });""",
        cell,
    )
    assert size == [9 * 299, 256]


def test_filters_show_what_they_name(page):
    choose(page, "group", "ball")
    assert {card.split("/")[0] for card in cards(page)} == {"ball"}
    choose(page, "group", "")
    choose(page, "verdict", "unusable")
    assert cards(page) == ["ball/<img src=x onerror=alert(1)>.png"]
    choose(page, "verdict", "unusable: empty")
    assert len(cards(page)) == 1
    choose(page, "verdict", "usable")
    assert page.find_element(By.ID, "count").text == "8 of 9 images"
    page.find_element(By.ID, "search").send_keys("003")
    assert cards(page) == ["ball/003.png"]


def test_names_are_text_and_never_run(page):
    assert page.execute_script("return document.images.length") == 0


def test_keys_move_and_mark_and_the_saved_list_can_be_rejected(store, page, tmp_path):
    cache, paths, _ = store
    choose(page, "verdict", "usable")
    body = page.find_element(By.TAG_NAME, "body")
    body.send_keys("j")
    first = page.switch_to.active_element
    first.send_keys("m")
    page.switch_to.active_element.send_keys("j")
    second = page.switch_to.active_element
    second.send_keys("2")
    second.send_keys("k")
    assert page.switch_to.active_element == first
    assert len(page.find_elements(By.CSS_SELECTOR, "figure.marked")) == 2
    page.find_element(By.ID, "save").click()
    saved = page.downloads / "rejected.txt"
    wait_for(saved.exists)
    copy = shutil.copytree(cache.directory, tmp_path / "copy")
    rejection = reject(copy, saved)
    assert (rejection.mattes, rejection.backgrounds, rejection.unknown) == (1, 1, [])
    with PIL.Image.open(next(path for path in paths if second.get_attribute("aria-label") in str(path))) as file:
        key = image_key(file)
    assert Reader(Cache(copy), simple.recipe().record(VARIANTS)).get(BACKGROUND, key, 1) is None


def test_marks_last_until_the_page_is_opened_again(page):
    page.find_element(By.CSS_SELECTOR, "figcaption button").click()
    page.refresh()
    assert len(page.find_elements(By.CSS_SELECTOR, "figure.marked")) == 1


def test_a_picture_is_enlarged_and_escape_closes_it(page):
    page.find_element(By.CSS_SELECTOR, ".cell").click()
    dialog = page.find_element(By.ID, "large")
    assert dialog.is_displayed()
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_a_dark_page_is_dark(page):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    color = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert color == "rgba(13, 17, 23, 1)"


def test_totals_count_what_each_stage_made(page):
    page.find_element(By.CSS_SELECTOR, ".totals summary").click()
    table = page.find_element(By.CSS_SELECTOR, ".totals table").text
    assert re.search(r"^remove 9 ", table, re.M)
    assert re.search(rf"^generate {8 * VARIANTS} ", table, re.M)


def test_a_pack_can_be_shown_and_a_missing_file_is_said(store, tmp_path):
    cache, paths, _ = store
    export_pack(cache, tmp_path / "pack")
    paths[1].rename(tmp_path / "away.png")
    try:
        write_gallery(tmp_path / "pack", tmp_path / "page.html", progress=False)
    finally:
        (tmp_path / "away.png").rename(paths[1])
    text = (tmp_path / "page.html").read_text()
    rows = json.loads(re.search(r'id="data">(.*)</script>', text)[1])["rows"]
    gone = [row for row in rows if not row["original"]]
    assert [row["source"] for row in gone] == [str(paths[1])]
    assert [cell["title"] for cell in gone[0]["cells"]][:3] == ["object", "plate", "background 0"]


def test_a_store_without_anything_and_a_folder_that_is_none_are_refused(tmp_path):
    Cache(tmp_path / "empty")
    for store, message in ((tmp_path / "empty", "holds no recipe yet"), (tmp_path / "nothing", "is not a store")):
        done = CliRunner().invoke(app, ["gallery", str(store), "-o", str(tmp_path / "page.html")])
        assert message in str(done.exception)
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_matte_does_not_end_the_gallery(tmp_path):
    paths = write_folder(tmp_path / "images", 2)
    cache = Cache(tmp_path / "cache")
    prewarm(paths, cache, simple.recipe(), workers=0, progress=False)
    reader = Reader(cache, simple.recipe().record(1))
    key = reader.keys(MATTE)[0]
    cache.put(reader.name(MATTE, key), b"no matte", {})
    assert write_gallery(cache, tmp_path / "page.html", progress=False) == 2
