"""The built book in a browser without a network: every page complete, readable on a phone, and found."""

import functools
import inspect
import pkgutil
import re
import shutil
import subprocess
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import mereq_min

ROOT = Path(__file__).parents[2]
HTML = ROOT / "book/_build/html"
SCREENSHOTS = ROOT / "book/_build/screenshots"
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("[0-9]*.md"))
LOUD = ("WARNING", "SEVERE")
WIDTHS = {"desktop": 1200, "phone": 390}

SETTLED = """
    return document.readyState === "complete"
        && (!window.MathJax?.startup || document.querySelectorAll(".math").length
            === document.querySelectorAll("mjx-container").length)
        && [...document.images].every(image => image.complete)
"""
MISSING_IMAGES = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.getAttribute('src'))"
FORMULAS_WITH_ERRORS = "return [...document.querySelectorAll('[data-mml-node=merror]')].map(e => e.innerHTML)"
RAW_TEX = r"""
    const page = document.querySelector("main").cloneNode(true)
    page.querySelectorAll("pre, code, script, mjx-container").forEach(element => element.remove())
    return page.textContent.match(/\\[(\[]|\$\$|\\(begin|frac|log|pi|alpha|omega|text|sum)\b/g) ?? []
"""
# What scrolls in place, such as a long line of code, is fine; the page itself must fit.
TOO_WIDE = """
    const page = document.querySelector(".bd-article-container")
    const scrolls = element => element !== page
        && (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement))
    return [...page.querySelectorAll("*")]
        .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
        .filter(element => element.checkVisibility() && !scrolls(element.parentElement))
        .map(element => element.outerHTML.slice(0, 80))
"""
ELSEWHERE = """
    return performance.getEntriesByType("resource").map(entry => entry.name)
        .filter(name => !name.startsWith(location.origin))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("chromedriver"), reason="no chromedriver; `make book-check` installs it"
    ),
]


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of the freshly built book."""
    subprocess.run(["make", "book"], cwd=ROOT, check=True)
    handler = functools.partial(QuietHandler, directory=HTML)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """Headless Chromium that resolves no name but this machine's."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless", "no-sandbox", "hide-scrollbars", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def set_size(browser: Chrome, width: int, height: int) -> None:
    """Show the page as a device of this size [px] would."""
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)


def open_page(browser: Chrome, address: str, width: int = WIDTHS["desktop"], scheme: str = "light") -> None:
    """Open a page on a screen of this width [px] and wait for its formulas and images."""
    set_size(browser, width, 900)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(SETTLED))


def find_faults(browser: Chrome) -> dict[str, object]:
    """What is wrong with the page that is open, by kind."""
    faults = {
        "console": [entry["message"] for entry in browser.get_log("browser") if entry["level"] in LOUD],
        "missing images": browser.execute_script(MISSING_IMAGES),
        "wrong formulas": browser.execute_script(FORMULAS_WITH_ERRORS),
        "raw TeX": browser.execute_script(RAW_TEX),
        "fetched from elsewhere": browser.execute_script(ELSEWHERE),
        "wider than the screen": browser.execute_script(TOO_WIDE),
    }
    return {kind: found for kind, found in faults.items() if found}


def pages() -> list[str]:
    """All pages but the listings of source code, which are one template filled in."""
    return sorted(
        str(path.relative_to(HTML))
        for path in HTML.rglob("*.html")
        if not {"_modules", "_static"} & set(path.parts)
    )


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_every_page_is_complete(site: str, browser: Chrome, width: int) -> None:
    faults = {}
    for page in pages():
        open_page(browser, f"{site}/{page}", width)
        faults[page] = find_faults(browser)
    assert {page: found for page, found in faults.items() if found} == {}
    assert {f"{chapter}.html" for chapter in CHAPTERS} < set(faults)


def test_the_check_finds_faults(site: str, browser: Chrome) -> None:
    open_page(browser, f"{site}/index.html")
    browser.execute_script(r"""
        console.error("a")
        const page = document.querySelector("article")
        page.append("by $$x$$ and \\frac{1}{2}", new Image())
        page.lastChild.src = "none.png"
        page.append(Object.assign(document.createElement("img"), {src: "http://example.org/a.png"}))
        page.append(Object.assign(document.createElement("div"), {style: "width: 3000px"}), "wide")
    """)
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(SETTLED))
    assert set(find_faults(browser)) == {
        "console",
        "missing images",
        "raw TeX",
        "fetched from elsewhere",
        "wider than the screen",
    }


def test_next_leads_through_all_chapters(site: str, browser: Chrome) -> None:
    open_page(browser, f"{site}/index.html")
    for chapter in CHAPTERS:
        browser.find_element(By.CSS_SELECTOR, "a.right-next").click()
        WebDriverWait(browser, 30).until(lambda driver, name=chapter: f"/{name}.html" in driver.current_url)
    browser.find_element(By.CSS_SELECTOR, "nav.bd-links a[href$='reference.html']").click()
    WebDriverWait(browser, 30).until(lambda driver: driver.current_url.endswith("/reference.html"))


def test_search_finds_a_chapter_and_a_function(site: str, browser: Chrome) -> None:
    for query, page in (
        ("temperature", "02-soft-control.html"),
        ("solve_residual", "mereq_min.residual.html"),
    ):
        open_page(browser, f"{site}/search.html?q={query}")
        found = (By.CSS_SELECTOR, f"#search-results a[href*='{page}']")
        WebDriverWait(browser, 30).until(lambda driver, found=found: driver.find_elements(*found))


def test_every_public_name_is_in_the_reference(site: str) -> None:
    documented = {
        name
        for page in (HTML / "reference").glob("mereq_min.*.html")
        for name in re.findall(r'<dt class="sig[^>]* id="([\w.]+)"', page.read_text(encoding="utf-8"))
    }
    public = set()
    for module in pkgutil.iter_modules(mereq_min.__path__, "mereq_min."):
        for name, value in vars(import_module(module.name)).items():
            here = getattr(value, "__module__", None) == module.name and not name.startswith("_")
            if here and (inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))):
                public.add(f"{module.name}.{name}")
    assert len(public) > 100
    assert public - documented == set()


def test_screenshots_to_look_at(site: str, browser: Chrome) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    for page in ("index", "notation", "reference", "bibliography", *CHAPTERS):
        for name, width, scheme in (("wide", 1200, "light"), ("phone", 390, "light"), ("dark", 1200, "dark")):
            open_page(browser, f"{site}/{page}.html", width, scheme)
            set_size(browser, width, browser.execute_script("return document.documentElement.scrollHeight"))
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {})
            (SCREENSHOTS / f"{page}-{name}.png").write_bytes(b64decode(shot["data"]))
            assert browser.execute_script("return document.documentElement.dataset.theme") == scheme
