"""A page in headless Chromium, driven over a pipe: no window, no driver, no package needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
]


class Chromium:
    """One browser with one page, spoken to in the DevTools protocol, one message at a time.

    What the page complains of (console errors, uncaught exceptions, violated policies) is kept
    in `complaints`.
    """

    def __init__(self, profile: Path) -> None:
        assert BINARY, "CI must not leave these tests out: install chromium, as .ci/run does"
        to_read, self._to = os.pipe()
        self._of, to_write = os.pipe()

        def inherit() -> None:
            # The protocol's pipes are descriptors 3 and 4; the numbers may be taken, so by way of
            # numbers that are not.
            first, second = os.dup(to_read), os.dup(to_write)
            os.dup2(first, 3)
            os.dup2(second, 4)

        # Chromium's own messages go to a file: a full pipe that nobody reads would stop it.
        self._log = (profile.parent / "chromium.log").open("ab")
        self._process = subprocess.Popen(
            [BINARY, *OPTIONS, f"--user-data-dir={profile}"],
            stdout=self._log,
            stderr=self._log,
            close_fds=False,
            preexec_fn=inherit,
        )
        os.close(to_read)
        os.close(to_write)
        self._pending = b""
        self._sent = 0
        self._session: str | None = None
        self._loaded: set[str] = set()
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None
        with contextlib.suppress(OSError, AssertionError):  # it may be gone already
            self.send("Browser.close")
        os.close(self._to)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._of)
        self._log.close()

    def send(self, method: str, **parameters: Any) -> Any:
        """Send one command and return its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            some = os.read(self._of, 1 << 20)
            assert some, "chromium has ended"
            self._pending += some
        text, self._pending = self._pending.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"])[:500])
            case "Page.lifecycleEvent" if told["name"] == "load":
                self._loaded.add(told["loaderId"])
            case "Log.entryAdded":
                self.complaints.append(told["entry"]["text"])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(told["args"])[:500])

    def open(self, page: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Show a file in a window of that size (CSS pixels), in the light or the dark scheme."""
        self.complaints.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        loader = self.send("Page.navigate", url=page.resolve().as_uri())["loaderId"]
        while loader not in self._loaded:
            self._next()

    def run(self, script: str) -> Any:
        """Run statements in the page and return what they return (also by a promise), as JSON."""
        answer = self.send(
            "Runtime.evaluate",
            expression=f"(() => {{ {script} }})()",
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key of the keyboard, such as Tab (9) or Enter (13)."""
        about: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        if key == "Enter":
            about["text"] = "\r"
        self.send("Input.dispatchKeyEvent", type="keyDown", **about)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.send("Input.insertText", text=text)

    def names(self, role: str) -> list[str]:
        """Return what a screen reader calls the parts of the page that have a role."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            node.get("name", {}).get("value", "")
            for node in nodes
            if not node["ignored"] and node.get("role", {}).get("value") == role
        ]

    def picture(self, file: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))
