"""Headless Chromium over chromedriver's plain HTTP protocol (W3C WebDriver), for what only a browser can tell."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium")


class Browser:
    """One headless browser window; use it in a `with`."""

    def __init__(self) -> None:
        assert DRIVER and CHROMIUM
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            self.root = self.session()
        except BaseException:
            self.driver.kill()
            raise

    def session(self) -> str:
        """Return the address of a new window."""
        assert self.driver.stdout is not None
        line = next(line for line in self.driver.stdout if "started successfully on port" in line)
        port = re.findall(r"port (\d+)", line)[-1]
        self.root = f"http://127.0.0.1:{port}/session"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options = {"goog:chromeOptions": {"binary": CHROMIUM, "args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.ask("POST", "", {"capabilities": {"alwaysMatch": options}})
        return f"{self.root}/{answer['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self.ask("DELETE", "")
        self.driver.terminate()
        self.driver.wait(10)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one WebDriver command and return its value."""
        content = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.root + path, content, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def command(self, name: str, **parts: Any) -> Any:
        """Send one command of the browser's own protocol."""
        return self.ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parts})

    def open(self, page: Path, width: int, height: int, scheme: str = "light") -> None:
        """Open a file in a window of width x height CSS pixels; narrow ones are phones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("POST", "/url", {"url": page.absolute().as_uri()})

    def run(self, script: str) -> Any:
        """Return what the JavaScript function body `script` returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def fits(self, width: int, patience: float = 2) -> bool:
        """Return whether the page is at most `width` CSS pixels wide; a busy machine lays it out a little later."""
        end = time.monotonic() + patience
        while self.run("return document.documentElement.scrollWidth") > width:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def press(self, key: str) -> None:
        """Press Enter, or the key of a letter, where the focus is."""
        text = "\r" if key == "Enter" else key
        parts = {"key": key, "windowsVirtualKeyCode": ord(text.upper())}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **parts)
        self.command("Input.dispatchKeyEvent", type="keyUp", **parts)

    def complaints(self) -> list[str]:
        """Return what has come to the console since it was last asked for, warnings and worse."""
        rows = self.ask("POST", "/se/log", {"type": "browser"})
        return [row["message"] for row in rows if row["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))
