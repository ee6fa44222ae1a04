"""The built book in a browser without a network: every page complete, readable on a phone, and found.

make book-check    # builds the book, and runs these tests
"""

import functools
import inspect
import pkgutil
import re
import shutil
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

import mereq_min
from gridworlds import TASKS, TabularTask
from mereq_min import SegmentLikelihoodConfig, Steps, maximise_likelihood, occupancy, watch
from mereq_min.inverse import Estimate

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
FORMULAS_TOO_WIDE = """
    return [...document.querySelectorAll("mjx-container")].filter(formula => formula.checkVisibility())
        .map(formula => [formula.querySelector("svg"), formula.closest("p, li, dd, caption, div.math")])
        .filter(([drawn, block]) => block && drawn.getBoundingClientRect().width > block.clientWidth + 1)
        .map(([drawn, block]) => `${block.id} ${block.textContent.slice(0, 60)}`)
"""
WITHOUT_ALTERNATIVE = """
    return [...document.querySelectorAll("article img")].filter(image => !image.alt)
        .map(image => image.outerHTML.slice(0, 80))
"""
WITHOUT_CAPTION = """
    const things = document.querySelectorAll(".cell_output img, .cell_output table, .widget")
    return [...things].filter(thing => !thing.closest(".widget") || thing.matches(".widget"))
        .filter(thing => !thing.closest("figure")?.querySelector("figcaption .caption-number")
            && !thing.querySelector("caption .caption-number"))
        .map(thing => thing.outerHTML.slice(0, 80))
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
    """The address of the book as it was last built; `make book-check` builds it first."""
    if not (HTML / "index.html").exists():
        pytest.fail("no book in book/_build/html; run `make book-check`, which builds it")
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
        "formulas wider than the text": browser.execute_script(FORMULAS_TOO_WIDE),
        "without alternative text": browser.execute_script(WITHOUT_ALTERNATIVE),
        "without a caption": browser.execute_script(WITHOUT_CAPTION),
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
        const formula = Object.assign(document.createElement("div"), {className: "math"})
        formula.innerHTML = "<mjx-container><svg width='3000' height='9'></svg></mjx-container>"
        page.append(formula)
        page.append(Object.assign(document.createElement("div"), {className: "widget"}))
    """)
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(SETTLED))
    assert set(find_faults(browser)) == {
        "console",
        "missing images",
        "raw TeX",
        "fetched from elsewhere",
        "wider than the screen",
        "formulas wider than the text",
        "without alternative text",
        "without a caption",
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


def test_sliders_show_what_they_are_set_to(site: str, browser: Chrome) -> None:
    for page, count in (("02-soft-control", 1), ("03-residual-q", 2)):
        open_page(browser, f"{site}/{page}.html")
        widget = browser.find_element(By.CSS_SELECTOR, ".sliders")
        inputs = widget.find_elements(By.CSS_SELECTOR, "input[type=range]")
        assert len(inputs) == count
        for slider in inputs:
            before = what_is_shown(browser, widget)
            slider.send_keys(Keys.ARROW_RIGHT)
            after = what_is_shown(browser, widget)
            assert all(old != new for old, new in zip(before, after, strict=True))
            slider.send_keys(Keys.ARROW_LEFT)
            assert what_is_shown(browser, widget) == before


def what_is_shown(browser: Chrome, widget: WebElement) -> tuple[str, str, str]:
    """Return the picture, the settings and the note of a map with sliders."""
    return tuple(
        browser.execute_script(
            """
            const [widget] = arguments
            const text = query => [...widget.querySelectorAll(query)].map(e => e.textContent).join()
            return [widget.querySelector("canvas").toDataURL(), text("output"), text("[data-part=note]")]
            """,
            widget,
        )
    )


def test_a_frame_of_a_slider_is_what_python_computes(site: str, browser: Chrome) -> None:
    """The brightest cell of the map is the state where most time is spent."""
    open_page(browser, f"{site}/03-residual-q.html")
    brightest = browser.execute_script("""
        const widget = document.querySelector(".sliders")
        const pen = widget.querySelector("canvas").getContext("2d")
        const { cells } = dataOf(widget)
        const light = ([y, x]) => {
            const [red, green] = pen.getImageData(x * CELL + 12, y * CELL + 12, 1, 1).data
            return red + green
        }
        const all = cells.map(light)
        return all.indexOf(Math.max(...all))
    """)
    task = TASKS["carpet"]()
    visits = occupancy(task.mdp, task.oracle.expert_policy.log_policy).sum(axis=1)
    assert visits[brightest] > 0.95 * visits.max()


def test_the_steps_of_an_iteration_lead_on_and_back(site: str, browser: Chrome) -> None:
    open_page(browser, f"{site}/06-mereq.html")
    widget = browser.find_element(By.CSS_SELECTOR, ".steps")
    back, on = widget.find_elements(By.TAG_NAME, "button")
    texts = []
    while True:
        (panel,) = [p for p in widget.find_elements(By.CSS_SELECTOR, "[data-part=panel]") if p.is_displayed()]
        texts.append(panel.text)
        assert panel.find_element(By.TAG_NAME, "img").size["height"] > 100
        if not on.is_enabled():
            break
        on.click()
    assert len(set(texts)) == len(texts) == 6
    back.click()
    assert widget.find_element(By.CSS_SELECTOR, "[data-part=count]").text == "5 of 6"


@pytest.fixture
def playroom(site: str, browser: Chrome) -> WebElement:
    open_page(browser, f"{site}/01-problem.html")
    return browser.find_element(By.CSS_SELECTOR, ".playroom")


def part(widget: WebElement, name: str) -> WebElement:
    return widget.find_element(By.CSS_SELECTOR, f"[data-part={name}]")


def infer(task: TabularTask, steps: list[list[int]]) -> Estimate:
    """Infer theta in Python from steps [state, action] of an expert."""
    state, action = np.transpose(steps)
    n = len(steps)
    hers = Steps(
        state=state,
        action=action,
        policy_action=action,
        features=task.mdp.features[state, action],
        is_intervention=np.ones(n, dtype=bool),
        episode=np.zeros(n, dtype=int),
        t=np.arange(n),
        terminated=np.zeros(n, dtype=bool),
        truncated=np.arange(n) == n - 1,
        policy_version=np.zeros(n, dtype=int),
    )
    learner = task.make_learner("residual", 1.0)
    return maximise_likelihood(learner, hers, np.zeros(len(task.feature_names)), SegmentLikelihoodConfig())


@pytest.mark.parametrize("seed", range(3))
def test_the_browser_infers_what_python_infers(browser: Chrome, playroom: WebElement, seed: int) -> None:
    """Logs of the simulated expert, recorded in Python, fitted by both."""
    task = TASKS["carpet"]()
    log = watch(task, task.prior, task.oracle, 250, seed)
    hers = log.select(log.is_intervention)
    steps = np.column_stack([hers.state, hers.action]).tolist()
    assert len(steps) > 30
    found = browser.execute_script(
        "const fit = MEReQ.fit(arguments[0].playroom.room, arguments[1], [0, 0, 0, 0, 0]);"
        "return [fit.theta, fit.errors, [...fit.logPolicy]]",
        playroom,
        steps,
    )
    wanted = infer(task, steps)
    np.testing.assert_allclose(found[0], wanted.theta, atol=1e-6)
    np.testing.assert_allclose(found[1], wanted.standard_errors, atol=1e-6)
    np.testing.assert_allclose(found[2], wanted.policy.log_policy.ravel(), atol=1e-5)


def test_the_reader_takes_over_and_is_understood(browser: Chrome, playroom: WebElement) -> None:
    part(playroom, "learn").click()
    assert "Take over first" in part(playroom, "message").text
    part(playroom, "run").click()
    canvas = playroom.find_element(By.TAG_NAME, "canvas")
    canvas.send_keys(Keys.SPACE)  # the driver brings it into view
    before = browser.execute_script("return scrollY")
    for key in 4 * [Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.SPACE]:
        canvas.send_keys(key)
    assert browser.execute_script("return scrollY") == before  # the keys do not move the page
    playroom.find_element(By.CSS_SELECTOR, "[data-action='1']").click()
    steps = browser.execute_script("return arguments[0].playroom.steps", playroom)
    assert [action for _, action in steps] == [4, *4 * [1, 2, 3, 0, 4], 1]
    WebDriverWait(browser, 10).until(
        lambda _: not re.search("drove 22 of 22 ", part(playroom, "rounds").text)
    )
    assert "you drove 22 of" in part(playroom, "rounds").text  # the robot drives on by itself
    part(playroom, "run").click()
    part(playroom, "learn").click()
    assert "Learned from 22 steps" in part(playroom, "message").text
    shown = [cell.text for cell in playroom.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(2)")]
    wanted = infer(TASKS["carpet"](), steps).theta
    np.testing.assert_allclose(np.array(shown, dtype=float), wanted, atol=0.0051)
    part(playroom, "forget").click()
    assert part(playroom, "rounds").text == "Round 1: you drove 0 of 0 steps."


def test_every_public_name_is_in_the_reference(site: str) -> None:
    documented = {
        name
        for page in (HTML / "reference").glob("mereq_min.*.html")
        for name in re.findall(r'<dt class="sig[^>]* id="([\w.]+)"', page.read_text(encoding="utf-8"))
    }
    public = set()
    for module in pkgutil.walk_packages(mereq_min.__path__, "mereq_min."):
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
