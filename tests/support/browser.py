"""A headless Chromium, spoken to over its debugging pipe: no port, no library, no network."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: Chromium takes no part of the user's own browser, and asks its makers for nothing: as it resolves no name, it can't
#: (without that it asks for accounts.google.com within seconds, whatever else is switched off).
_FLAGS = (
    *"--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_WITHOUT_GRAPHICS = ("--disable-gpu",)
#: WebGL on a CPU, for a page that draws with it.
_WITH_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


class Browser:
    """One page in a Chromium of our own. A context."""

    def __init__(self, folder: Path, *, webgl: bool = False, size: tuple[int, int] = (1280, 900)) -> None:
        from_us, to_us = os.pipe(), os.pipe()
        self._events: list[dict[str, Any]] = []
        self._held = b""
        self._number = 0
        self._write, self._read = from_us[1], to_us[0]
        # Chromium reads from descriptor 3 and writes to 4.
        ends = f'exec "$@" 3<&{from_us[0]} 4>&{to_us[1]}'
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                ends,
                "bash",
                "chromium",
                *_FLAGS,
                *(_WITH_WEBGL if webgl else _WITHOUT_GRAPHICS),
                f"--window-size={size[0]},{size[1]}",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(from_us[0], to_us[1]),
        )
        os.close(from_us[0])
        os.close(to_us[1])
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        self._process.terminate()
        self._process.wait(20)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def open(self, path: Path) -> list[dict[str, Any]]:
        """Open a file and return what happened up to its load."""
        return self.visit(path.as_uri())

    def visit(self, address: str) -> list[dict[str, Any]]:
        """Open an address and return what happened up to its load."""
        self._events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())
        return list(self._events)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; the debugger's own, whatever the page allows."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def tree(self) -> list[tuple[str, str]]:
        """Return (role, name) of all that a screen reader meets."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]

    def picture(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        """Return the page as it is printed, on A4."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=False, paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(answer["data"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium says nothing for a minute"
            read = os.read(self._read, 1 << 20)
            assert read, "Chromium has ended"
            self._held += read
        message, _, self._held = self._held.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
