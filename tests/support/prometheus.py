"""A real Prometheus over a folder with its configuration, and questions to it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.support.servers import free_port


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """Run Prometheus on the folder's prometheus.yml; yield the address of its interface."""
    url = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--web.listen-address={url}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--storage.tsdb.path={folder}/data"], stdout=log, stderr=log, cwd=folder
        )
    try:
        yield f"http://{url}/api/v1"
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """Return what Prometheus answers to a query, which it must understand; nothing while it isn't up."""
    try:
        answer = requests.get(f"{url}/query", params={"query": query}, timeout=10)
    except requests.ConnectionError:
        return []
    if answer.status_code == 503:
        return []  # it starts
    assert answer.json()["status"] == "success", (query, answer.text)
    return list(answer.json()["data"]["result"])
