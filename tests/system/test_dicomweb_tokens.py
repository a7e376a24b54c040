"""A bearer token that runs out in the middle of a run: it waits, says so, and ends whole once there is a new one."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.dicomweb_servers import Answer, StrictServer

pytestmark = pytest.mark.slow


def test_a_token_that_runs_out_costs_no_image(cli: Cli, tmp_path: Path) -> None:
    """Found: the run ended, since 401 looked like a wrong password."""
    token = tmp_path / "token"
    token.write_text("first\n")
    with StrictServer(token="first", page=2) as server:
        for number in range(6):
            uids: dict[str, Any] = {
                "StudyInstanceUID": f"1.2.{number}",
                "SeriesInstanceUID": f"1.2.{number}.1",
            }
            server.add(dicom(chest(64, 64), **uids, SOPInstanceUID=f"1.2.{number}.1.1", StudyDate="20240101"))
        stored: list[str] = []

        def runs_out(_: str, uid: str) -> Answer | None:
            stored.append(uid)
            if len(stored) == 2:
                server.token = "second"
                threading.Timer(4.0, renewed).start()
            return None

        def renewed() -> None:
            new = tmp_path / "new"
            new.write_text("second\n")
            new.rename(token)

        server.store_answer = runs_out
        secrets = {"CXR_PACS_TOKEN_FILE": str(token), "CXR_CHUNK_SIZE": "2", "CXR_PACS_REQUESTS": "1"}
        run = cli("run", server.url, "--out", "out", **secrets)
        assert run.returncode == 0, run.stdout + run.stderr
        found = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert (found["reported"], found["quarantined"]) == (6, {})
        assert len(server.instances) == 12
        logs = "".join(path.read_text() for path in (tmp_path / "out" / "logs").rglob("*") if path.is_file())
        assert "takes the token no longer (401)" in logs
