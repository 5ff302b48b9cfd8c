"""The page in a real browser: each part in both languages, against the answers of the server's API."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_immich import FakeImmich, Photo
from PIL import Image, ImageDraw, ImageFont
from server import ROOT, RunningServer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
    pytest.mark.timeout(300),
]

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
AXE = ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
SAMPLE = ROOT / "docs" / "sample.jpg"
TABS = ("now", "photo", "search", "again", "settings")
HEADINGS = {"en": "Models", "zh-CN": "模型"}
WAIT_MS = 60_000
KEY = "a key with spaces"


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    """With an Immich, which nobody asks: so that every part of the page is offered."""
    return {"MACHINE_LEARNING_IMMICH_URL": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


class Visit:
    """A page that is open, and what it must not have done at the end: complain, or ask another host."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**{"locale": "en-US", **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(address)
        self.host = address.split("/")[2]

    def _on_console(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []
            assert {host for host in self.hosts if host} <= {self.host}


def address(server: RunningServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def choose(page: Any, file: Path) -> dict[str, Any]:
    """Give the page a photo to read; the API's answer that it got."""
    page.click("#tab-photo")
    with page.expect_response("**/predict") as caught:
        page.set_input_files("#photo-file", str(file))
    answer: dict[str, Any] = caught.value.json()
    page.wait_for_selector("#photo-found h2")
    return answer


@pytest.mark.parametrize("locale", HEADINGS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_part_is_accessible_in_its_language(
    server: RunningServer, browser: Any, locale: str, scheme: str
) -> None:
    with Visit(browser, address(server), locale=locale, color_scheme=scheme) as page:
        page.wait_for_selector("#tab-again:not([hidden])")
        assert page.get_attribute("html", "lang") == ("zh-CN" if locale == "zh-CN" else "en")
        assert page.get_by_role("heading", name=HEADINGS[locale], exact=True).is_visible()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        for tab in TABS:
            page.click(f"#tab-{tab}")
            page.wait_for_selector(f"#{tab}:not([hidden])")
            found = page.evaluate("axe.run({resultTypes: ['violations']})")
            serious = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
            assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in serious] == [], tab


def test_the_device_and_the_reason_for_it_are_named(server: RunningServer, browser: Any) -> None:
    with Visit(browser, address(server)) as page, server.client() as client:
        page.wait_for_selector("#device dd")
        status = client.get("/status").json
        shown = page.inner_text("#device")
        assert status["device"] in shown
        assert status["deviceReason"] in shown
        assert "MACHINE_LEARNING_PROVIDER" in shown or "ONNX Runtime is installed" in shown


def test_the_language_can_be_switched(server: RunningServer, browser: Any) -> None:
    with Visit(browser, address(server)) as page:
        page.wait_for_selector("#device dd")
        page.click("[data-language=zh]")
        assert page.inner_text("#tab-photo") == "试一张照片"
        page.reload()
        assert page.inner_text("#tab-photo") == "试一张照片"
        page.click("[data-language=en]")
        assert page.inner_text("#tab-photo") == "Try a photo"


def test_text_and_boxes_are_those_of_the_answer(server: RunningServer, browser: Any) -> None:
    with Visit(browser, address(server)) as page:
        answer = choose(page, SAMPLE)["ocr"]
        assert "山间音乐会" in answer["text"]
        assert page.locator("#text-lines li").all_inner_texts() == answer["text"]
        drawn = page.eval_on_selector_all(
            "#photo-view polygon", "all => all.map(each => [...each.points].flatMap(point => [point.x, point.y]))"
        )
        boxes = [answer["box"][at : at + 8] for at in range(0, len(answer["box"]), 8)]
        assert len(drawn) == len(boxes)
        for shown, box in zip(drawn, boxes, strict=True):
            assert shown == pytest.approx(box, abs=1e-5)
        assert page.locator("#photo-view svg").bounding_box() == page.locator("#photo-view img").bounding_box()
        page.hover("#text-lines li:nth-child(2)")
        assert page.locator("#photo-view polygon").nth(1).get_attribute("class") == "lit"


def test_markup_in_a_photo_is_shown_as_text(server: RunningServer, browser: Any, tmp_path: Path) -> None:
    picture = Image.new("RGB", (1400, 300), "white")
    font = ImageFont.load_default(64)
    ImageDraw.Draw(picture).text((60, 100), "<img src=x onerror=alert(1)>", "black", font)
    picture.save(tmp_path / "markup.png")
    with Visit(browser, address(server)) as page:
        answer = choose(page, tmp_path / "markup.png")["ocr"]
        assert "<img" in answer["text"][0]
        assert page.locator("#text-lines li").all_inner_texts() == answer["text"]
        assert page.locator("#text-lines img").count() == 0


def test_a_large_photo_is_scaled_as_immich_does(server: RunningServer, browser: Any, tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), "gray").save(tmp_path / "large.jpg")
    with Visit(browser, address(server)) as page:
        answer = choose(page, tmp_path / "large.jpg")
        assert (answer["imageWidth"], answer["imageHeight"]) == (1920, 1440)


def test_photos_are_ranked_for_words(server: RunningServer, browser: Any, tmp_path: Path) -> None:
    """Random weights rank at random; the order has to be that of the similarities shown."""
    files = []
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (200, 200), colour).save(tmp_path / f"{number}.png")
        files.append(str(tmp_path / f"{number}.png"))
    with Visit(browser, address(server)) as page:
        page.click("#tab-photo")
        page.click("#photo details summary >> nth=0")
        page.fill("#name-clip", "ViT-B-16__laion400m_e31")
        page.click("#tab-search")
        page.fill("#words", "海边的日落")
        page.set_input_files("#search-files", files)
        for number in range(3):
            sync_api.expect(page.locator("#ranking span").nth(number)).to_have_text(
                re.compile(r"-?\d\.\d{4} · \d\.png")
            )
        shown = [float(text.split(" ")[0]) for text in page.locator("#ranking span").all_inner_texts()]
        assert shown == sorted(shown, reverse=True)


def test_the_model_that_answered_is_named(server: RunningServer, browser: Any) -> None:
    """The bundled one, where another of its alphabet cannot be fetched."""
    with Visit(browser, address(server)) as page:
        page.click("#tab-photo")
        page.click("#photo details summary >> nth=0")
        page.fill("#name-ocr", "PP-OCRv5_mobile")
        assert choose(page, SAMPLE)["ocr"]["text"]
        assert "PP-OCRv6_small" in page.inner_text("#photo-found .quiet")


def test_a_search_shows_what_the_text_index_finds(server: RunningServer, browser: Any) -> None:
    with Visit(browser, address(server)) as page:
        choose(page, SAMPLE)
        page.click("#tab-search")
        page.fill("#words", "ocr:音乐会")
        found = page.locator("#matches li")
        for _ in range(30):  # what was read is written within a second or so
            page.click("#search-form button")
            page.wait_for_selector("#indexed:not([hidden])")
            if found.count():
                break
            page.wait_for_timeout(500)
        assert "山间音乐会" in found.first.inner_text()
        assert "exact" in found.first.inner_text()


def test_a_missing_model_is_explained(server: RunningServer, browser: Any) -> None:
    """Why there are no faces, and what to do, from the page alone."""
    with Visit(browser, address(server)) as page:
        page.click("#tab-photo")
        page.uncheck("#want-text")
        page.check("#want-faces")
        page.click("#photo details summary >> nth=0")
        page.fill("#name-faces", "antelopev2")
        with page.expect_response("**/predict") as caught:
            page.set_input_files("#photo-file", str(SAMPLE))
        assert caught.value.status == 503
        reason = caught.value.json()["detail"]
        assert page.inner_text("#photo-found .trouble") == reason
        page.click("#tab-now")
        card = page.locator("#models li", has_text=reason).first
        card.wait_for()
        assert "cannot be had" in card.inner_text()
        assert reason in card.inner_text()
        assert "fetching is switched off" in reason
        assert "→" in reason, "the address and the place of each file"
        assert card.get_by_role("button", name="Fetch now").is_visible()


def test_settings_are_listed_and_filtered(server: RunningServer, browser: Any) -> None:
    with Visit(browser, address(server)) as page:
        page.click("#tab-settings")
        page.wait_for_selector("#settings-rows tr")
        page.fill("#settings-filter", "cache_folder")
        row = page.locator("#settings-rows tr")
        assert row.count() == 1
        assert "MACHINE_LEARNING_CACHE_FOLDER" in row.inner_text()
        assert "environment" in row.inner_text()


def test_nothing_is_too_wide_for_a_phone(server: RunningServer, browser: Any) -> None:
    with Visit(browser, address(server), viewport={"width": 360, "height": 740}, has_touch=True) as page:
        page.wait_for_selector("#device dd")
        choose(page, SAMPLE)
        for tab in TABS:
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab


def test_a_key_is_asked_for_and_stays_in_the_tab(cache: Path, browser: Any) -> None:
    with RunningServer(cache, MACHINE_LEARNING_API_KEY=KEY) as running, Visit(browser, address(running)) as page:
        page.wait_for_selector("#key-form:not([hidden])")
        assert page.locator("#device dd").count() == 0
        page.fill("#key", "wrong")
        page.click("#key-form button")
        page.wait_for_selector("#key-wrong:not([hidden])")
        page.fill("#key", KEY)
        page.click("#key-form button")
        page.wait_for_selector("#device dd")
        assert page.evaluate("JSON.stringify(localStorage)").find(KEY) == -1
        assert choose(page, SAMPLE)["ocr"]["text"]
        another = page.context.new_page()
        another.goto(address(running))
        another.wait_for_selector("#key-form:not([hidden])")


def test_under_a_root_path(cache: Path, browser: Any) -> None:
    with (
        RunningServer(cache, MACHINE_LEARNING_ROOT_PATH="/ml") as running,
        Visit(browser, address(running, "/ml/")) as page,
    ):
        page.wait_for_selector("#device dd")
        assert choose(page, SAMPLE)["ocr"]["text"]


def test_immich_is_answered_as_ever(server: RunningServer) -> None:
    with server.client() as client:
        assert client.get("/").body == b'{"message":"Immich ML"}'


def test_one_photo_again_is_offered_where_immich_is_known(cache: Path, browser: Any) -> None:
    """The preview comes with the login of this browser; without Redis the page says what is not set."""
    photo = Photo("0a1b2c3d-1111-4111-8111-111111111111", "anna", "", "2024")
    immich = FakeImmich([photo], {"anna-token": "anna"})
    with (
        immich.running(),
        RunningServer(cache, MACHINE_LEARNING_IMMICH_URL=f"http://127.0.0.1:{immich.port}") as running,
        Visit(browser, address(running)) as page,
    ):
        cookie = {"name": "immich_access_token", "value": "anna-token", "url": address(running)}
        page.context.add_cookies([cookie])
        page.click("#tab-again")
        page.fill("#again-photo", f"https://photos.example/photos/{photo.id}")
        page.click("#again-form button")
        page.wait_for_selector("#again-view img")
        page.wait_for_selector("#again-trouble:not([hidden])")
        assert "MACHINE_LEARNING_IMMICH_REDIS_URL" in page.inner_text("#again-trouble")


def test_one_photo_again_is_hidden_where_immich_is_not_known(cache: Path, browser: Any) -> None:
    with RunningServer(cache) as running, Visit(browser, address(running)) as page:
        page.wait_for_selector("#device dd")
        assert page.locator("#tab-again").is_hidden()
