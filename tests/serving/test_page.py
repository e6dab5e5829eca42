"""The page in a real browser, used as people use it."""

import base64
import io
import shutil
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.serving import served
from tests.serving.color_searcher import COLORS, MARKUP, id_of, photo_of

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SECONDS = 30  # to wait for the page, on a machine that does other things too
SIZES = {"wide": (1280, 900), "phone": (390, 844), "narrow": (320, 640)}

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="there is no browser: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def server():
    with served.colors() as running:
        yield running


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Containers have no sandbox and little shared memory.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    try:
        running = webdriver.Chrome(options=options, service=Service(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"the browser does not start: {error.msg.splitlines()[0]}")
    yield running
    running.quit()


class Page:
    """The page, in the words of a person who uses it."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, path="/"):
        self.driver.get(self.url + path)
        self.wait_for(lambda: self.cards())

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector):
        self.find(selector)[0].click()

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, condition):
        WebDriverWait(self.driver, SECONDS, 0.05, (Exception,)).until(
            lambda _: condition()
        )

    def cards(self):
        return self.find("#results .card")

    def wait_for_first(self, color):
        """Waits until the first result is of a color, to the eye."""

        def is_first():
            assert not self.find("#results.waiting")
            shown = self.cards()[0].find_element(By.CSS_SELECTOR, "img")
            with Image.open(io.BytesIO(shown.screenshot_as_png)) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            middle = pixels[len(pixels) // 2, pixels.shape[1] // 2]
            return np.abs(middle.astype(int) - COLORS[color]).max() < 20

        self.wait_for(is_first)

    @property
    def query(self):
        return urllib.parse.parse_qs(
            urllib.parse.urlsplit(self.driver.current_url).query
        )

    def text(self, selector):
        return " ".join(e.text for e in self.find(selector) if e.is_displayed())


@pytest.fixture
def page(driver, server):
    """An opened page, on which nothing fails and which loads nothing from elsewhere."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    opened = Page(driver, server.url)
    opened.open()
    driver.get_log("browser")
    yield opened
    assert driver.get_log("browser") == []
    addresses = opened.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert addresses
    assert all(a.startswith((server.url, "blob:")) for a in addresses), addresses


def test_type_and_press_enter(page):
    page.press("a blue thing", Keys.ENTER)  # the text box has the focus
    page.wait_for_first("blue")
    assert page.query == {"q": ["a blue thing"]}
    assert page.cards()[0].text.startswith("a blue thing\n1.000")
    page.wait_for(lambda: "The 6 most similar of 6" in page.text("#status"))
    assert page.driver.title == "a blue thing \N{EN DASH} Search"


def test_start_shows_items_and_examples(page):
    assert page.text("#start h2") == "Search 6 images by words or by a photo"
    assert len(page.cards()) == len(COLORS)
    page.click("#examples button")
    page.wait_for(lambda: page.query)
    color = page.query["q"][0].split()[1]
    page.wait_for_first(color)
    assert not page.find("#start")[0].is_displayed()


def test_add_and_subtract_words(page):
    page.press("yellow", Keys.ENTER)
    page.wait_for_first("yellow")
    page.click("#minus")
    page.press("red", Keys.ENTER)
    page.wait_for_first("green")
    assert page.query == {"q": ["yellow"], "minus": ["red"]}
    page.click("#parts .sign")  # added instead of subtracted
    page.wait_for(lambda: page.query == {"q": ["yellow", "red"]})
    page.click("#parts button:last-child")
    page.wait_for(lambda: page.query == {"q": ["yellow"]})
    page.wait_for_first("yellow")


def test_more_like_this_and_less(page):
    page.press("pink", Keys.ENTER)
    page.wait_for_first("pink")
    buttons = {card.text.split()[1]: card for card in page.cards()}
    buttons["blue"].find_elements(By.CSS_SELECTOR, ".actions button")[2].click()
    page.wait_for_first("red")
    assert page.query == {"q": ["pink"], "unlike": [id_of("blue")]}
    page.cards()[-1].find_elements(By.CSS_SELECTOR, ".actions button")[0].click()
    page.wait_for(lambda: list(page.query) == ["like"])


def test_links_and_the_back_button(page):
    page.press("red", Keys.ENTER)
    page.wait_for_first("red")
    page.press(Keys.CONTROL, "a", Keys.NULL, "green", Keys.ENTER)
    page.wait_for_first("green")
    page.driver.back()
    page.wait_for_first("red")
    assert page.find("#words")[0].get_property("value") == "red"
    page.driver.forward()
    page.wait_for_first("green")
    page.open(f"/?{urllib.parse.urlencode({'q': 'pink', 'unlike': id_of('red')})}")
    page.wait_for_first("blue")
    page.click("#home")
    page.wait_for(lambda: page.find("#start")[0].is_displayed())


MAKE_PHOTO = """
  const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "beach.png", { type: "image/png" }));
"""


def encoded(color):
    return base64.b64encode(photo_of(COLORS[color])).decode()


def test_drop_a_photo(page):
    send = (
        MAKE_PHOTO
        + """
      for (const kind of ["dragover", "drop"]) {
        const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
        document.body.dispatchEvent(new DragEvent(kind, options));
        if (kind === "dragover" && document.getElementById("drop").hidden) return false;
      }
      return document.getElementById("drop").hidden;
    """
    )
    assert page.run(send, encoded("cyan"))
    page.wait_for_first("cyan")
    assert page.text("#parts .part") == "+\nbeach.png\n\N{MULTIPLICATION SIGN}"
    page.press("red", Keys.ENTER)  # cyan and red
    page.wait_for(lambda: page.query.get("q") == ["red"])
    page.driver.refresh()
    page.wait_for(lambda: "A link cannot hold a photo" in page.text("#error"))
    page.click("#parts button:last-child")
    page.wait_for_first("red")


def test_paste_a_photo(page):
    send = (
        MAKE_PHOTO
        + """
      const options = { bubbles: true, cancelable: true, clipboardData: transfer };
      document.activeElement.dispatchEvent(new ClipboardEvent("paste", options));
    """
    )
    page.run(send, encoded("green"))
    page.wait_for_first("green")


def test_choose_a_photo(page, tmp_path):
    (tmp_path / "p.png").write_bytes(photo_of(COLORS["yellow"]))
    page.find("#file")[0].send_keys(str(tmp_path / "p.png"))
    page.wait_for_first("yellow")
    (tmp_path / "p.txt").write_text("not a photo")
    page.find("#file")[0].send_keys(str(tmp_path / "p.txt"))
    page.wait_for(lambda: "it is not an image of a known format" in page.text("#error"))
    (line,) = page.driver.get_log("browser")  # the browser logs each such answer
    assert "400 (Bad Request)" in line["message"]


def test_keyboard_alone(page):
    page.run("document.activeElement.blur()")
    page.find("body")[0].send_keys("/")
    page.press("red", Keys.ENTER)
    page.wait_for_first("red")
    for _ in range(20):
        page.press(Keys.TAB)
        focused = page.driver.switch_to.active_element
        if focused.get_attribute("class") == "picture":
            break
    assert (
        focused.find_element(By.TAG_NAME, "img").get_attribute("alt") == "a red thing"
    )
    page.press(Keys.ENTER)
    page.wait_for(lambda: page.text("#viewer h2") == "a red thing")
    page.press(Keys.ARROW_RIGHT)
    page.wait_for(lambda: page.text("#viewer h2") != "a red thing")
    page.press(Keys.ARROW_LEFT)
    page.wait_for(lambda: page.text("#viewer h2") == "a red thing")
    page.press(Keys.ESCAPE)
    page.wait_for(lambda: not page.find("#viewer[open]"))
    assert page.driver.switch_to.active_element == focused
    page.press(Keys.TAB)
    assert page.driver.switch_to.active_element.text == "More like this"
    page.press(Keys.SPACE)
    page.wait_for(lambda: page.query == {"like": [id_of("red")]})


def test_viewer_shows_the_whole_picture_and_all_captions(page):
    page.open("/?q=green")
    page.wait_for_first("green")
    page.click(".picture")
    image = "document.querySelector('#viewer img')"
    page.wait_for(lambda: page.run(f"return {image}.naturalWidth") == 1600)
    assert MARKUP in page.text("#viewer .captions")  # as text
    assert not page.find("#viewer .captions b")
    assert id_of("green") in page.text("#viewer .meta")
    page.click("#viewer .close")


def test_unknown_words_are_named(page):
    page.press("red <i>dragon</i>", Keys.ENTER)
    page.wait_for_first("red")
    assert page.text("#warning") == "The model does not know “<i>dragon</i>”."
    page.open("/?q=dragon")
    page.wait_for(lambda: "these results are arbitrary" in page.text("#warning"))
    page.open(f"/?q={'red+' * 101}")
    page.wait_for(lambda: "reads only its beginning" in page.text("#warning"))


def test_server_that_is_gone_and_comes_back(page):
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    command = "Network.emulateNetworkConditions"
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd(command, conditions | {"offline": True})
    try:
        page.press("blue", Keys.ENTER)
        page.wait_for(lambda: "The server does not answer" in page.text("#error"))
    finally:
        page.driver.execute_cdp_cmd(command, conditions | {"offline": False})
    page.click("#again")
    page.wait_for_first("blue")
    assert not page.text("#error")
    page.driver.get_log("browser")


def test_invalid_link(page):
    page.driver.get(f"{page.url}/?q=red&threshold=high")
    page.wait_for(
        lambda: "threshold is 'high'; expected a number" in page.text("#error")
    )
    page.driver.get_log("browser")


def test_markup_in_a_link_is_text(page):
    markup = "<img src=x onerror=document.title='hacked'>"
    page.open(f"/?{urllib.parse.urlencode({'q': ['red', markup]}, doseq=True)}")
    page.wait_for_first("red")
    assert page.find("#parts input")[0].get_property("value") == markup
    assert page.driver.title.endswith("Search")


def set_screen(page, size, scheme):
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", metrics | {"mobile": size != "wide"}
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


# Returns text and the contrast to what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((value) => value / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      const [r, g, b, alpha = 1] = channels(color);
      if (color.startsWith("rgb") && alpha === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!element.checkVisibility() || !(own || element.value)) continue;
    const text = luminance(channels(getComputedStyle(element).color));
    const back = luminance(behind(element));
    const [low, high] = [Math.min(text, back), Math.max(text, back)];
    const shown = element.textContent.trim() || element.value;
    found.push([shown, (high + 0.05) / (low + 0.05)]);
  }
  return found;
"""


# Returns controls that are partly outside of the card or the window.
CLIPPED = """
  return [...document.querySelectorAll("button, input, a")]
    .filter((control) => control.checkVisibility() && !control.closest(".skip"))
    .filter((control) => {
      const around = control.closest(".card, .box") ?? document.body;
      const [inner, outer] = [control, around].map((e) => e.getBoundingClientRect());
      return inner.right > outer.right + 0.5 || inner.left < outer.left - 0.5;
    })
    .map((control) => control.ariaLabel || control.textContent);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/", "/?q=red+dragon&minus=blue", "/api"])
def test_text_is_legible_and_fits(page, size, scheme, path):
    set_screen(page, size, scheme)
    page.driver.get(page.url + path)
    page.wait_for(lambda: page.find(".card, .prose"))
    page.wait_for(lambda: "q=" not in path or page.text("#warning"))
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 10
    weak = [found for found in contrasts if found[1] < 4.5]
    assert not weak
    assert page.run("return innerWidth") == SIZES[size][0]
    assert page.run("return document.body.scrollWidth <= document.body.clientWidth")
    assert page.run(CLIPPED) == []
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    is_dark = int(background.strip("rgb()").split(",")[0]) < 128
    assert is_dark == (scheme == "dark")


def test_everything_has_a_name_for_screen_readers(page):
    page.open("/?q=red&minus=blue&unlike=" + urllib.parse.quote(id_of("pink")))
    page.wait_for_first("red")
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node["ignored"]:
            names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "link", "searchbox", "textbox", "heading"):
        assert names[role], role
        assert all(names[role]), (role, names[role])
    assert names["search"]
    assert "Describe what you are looking for" in names["searchbox"]
    assert "Search by a photo" in names["button"]
    assert "Subtract from the query: a blue thing" in names["button"]
    assert "Results, the most similar first" in names["list"]
    assert len(names["button"]) == len(set(names["button"]))
    assert page.find("#status")[0].get_attribute("role") == "status"
