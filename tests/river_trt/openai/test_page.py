"""The page at / in headless Chromium: a chat, its colours, its figures, two columns, a phone."""

import re
import shutil

import httpx
import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

from tests.river_trt.conftest import LAYERS  # noqa: E402

QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("the page's test needs chromium and chromedriver (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, Service(driver))
    yield found
    found.quit()


@pytest.fixture
def page(browser, served):
    browser.get(f"{served.url}/")
    WebDriverWait(browser, 20).until(lambda b: find_all(b, "#model option"))
    return browser


def find_all(browser, selector):
    return browser.find_elements("css selector", selector)


def ask(browser, text):
    box = browser.find_element("id", "prompt")
    box.send_keys(text + Keys.ENTER)
    send = browser.find_element("id", "send")
    count = len(find_all(browser, ".user"))
    WebDriverWait(browser, 20).until(
        lambda b: (
            send.text == "send" and find_all(b, ".user") and count <= len(find_all(b, ".user"))
        )
    )


def test_a_chat_is_coloured_by_exit_layer(page, served):
    ask(page, "hello")
    tokens = find_all(page, ".token[title]")
    whole = served.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=200,
        extra_body={"river": {"trace": True}},
    )
    river = whole.choices[0].river
    assert (
        "".join(t.get_property("textContent") for t in tokens) == whole.choices[0].message.content
    )
    layers = [int(re.search(r"after layer (\d+) of", t.get_attribute("title"))[1]) for t in tokens]
    assert layers == river["exit_layers"]
    assert len(find_all(page, ".bars i")) == LAYERS
    figures = find_all(page, ".figures")[0].text
    assert f"{len(layers)} tokens" in figures and f"of {LAYERS} layers a token" in figures
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_modes_stand_side_by_side(page):
    Select(page.find_element("id", "right")).select_by_visible_text("lossless")
    ask(page, "hello")
    left, right = find_all(page, "section")
    assert [box.get_attribute("aria-label") for box in (left, right)] == ["river", "lossless"]
    depths = {t.get_attribute("title") for t in right.find_elements("css selector", ".token")}
    assert all(f"after layer {LAYERS} of" in title for title in depths)
    assert "drafts accepted" in right.find_element("css selector", ".figures").text


def test_an_error_is_shown_as_text(page):
    ask(page, "<b>" + "x" * 300)
    error = find_all(page, ".error")[0].text
    assert "the cache has 96 slots" in error
    assert find_all(page, ".user b") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(page, scheme):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ask(page, "hello")
    assert page.execute_script("return document.documentElement.scrollWidth") <= 400
    colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (scheme == "light")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_takes_nothing_from_elsewhere(served):
    answer = httpx.get(f"{served.url}/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(src|href)\s*=|https?://|@import", answer.text)
