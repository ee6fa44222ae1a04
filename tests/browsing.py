"""A headless browser for tests of pages: sizes, keys, screenshots, and what a page asked of whom."""

from __future__ import annotations

import json
import shutil
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

CODES = {" ": "Space", ".": "Period"}
"""`KeyboardEvent.code` of keys whose name is another."""


@contextmanager
def browsing() -> Iterator[Chrome]:
    """Headless Chromium that resolves no name but this machine's, and draws WebGL without a graphics card."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "headless", "no-sandbox", "hide-scrollbars", "disable-dev-shm-usage", "use-angle=swiftshader",
        "enable-unsafe-swiftshader", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def set_screen(
    browser: Chrome, width: int, height: int, scheme: str = "light", *, still: bool = False
) -> None:
    """Be a screen of this size [px], with touch if narrow, in a colour scheme; `still` reduces motion."""
    phone = width < 600
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def press(browser: Chrome, key: str, seconds: float = 0.0) -> None:
    """Press a key as hands do, hold it for a time [s], and let it go."""
    send_key(browser, "keyDown", key)
    time.sleep(seconds)
    send_key(browser, "keyUp", key)


def send_key(browser: Chrome, kind: str, key: str) -> None:
    """Send "keyDown" or "keyUp"."""
    text = {"Enter": "\r", " ": " "}.get(key, "")  # what presses a button that has the focus
    event = {"type": kind, "key": key, "code": CODES.get(key, key), "text": text if kind == "keyDown" else ""}
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", event)


def capture(browser: Chrome, **options: Any) -> bytes:
    """Return a picture of the screen, or of what the options of `Page.captureScreenshot` say, as PNG."""
    return b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


def take_screenshot(browser: Chrome, path: Path) -> None:
    """Save a picture of the whole page."""
    size = "return [innerWidth, Math.max(innerHeight, document.documentElement.scrollHeight)]"
    width, height = browser.execute_script(size)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(capture(browser, captureBeyondViewport=True, clip=clip))


def list_requests(browser: Chrome) -> set[str]:
    """Hosts that pages asked for anything since the last call, WebSockets included."""
    hosts = set()
    for entry in browser.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        url = {
            "Network.requestWillBeSent": lambda each: each["request"]["url"],
            "Network.webSocketCreated": lambda each: each["url"],
        }.get(message["method"], lambda each: "")(message["params"])
        if urlsplit(url).scheme in ("http", "https", "ws", "wss", "ftp"):
            hosts.add(urlsplit(url).netloc)
    return hosts
