"""The scripts beside the stack, as a shell runs them; what needs an engine is tried by ``make compose-test``."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import ROOT, wait_until

FAKE = """#!/bin/sh
echo "$@" >>"$LOG"
case "$1" in
ps) echo orthanc; echo runner ;;
stop) touch "$LOG.stopped"; sleep 60 ;;
esac
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_broken_off_backup_starts_again_what_it_stopped(tmp_path: Path, number: signal.Signals) -> None:
    fake, log = tmp_path / "compose", tmp_path / "log"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    running = subprocess.Popen(
        # Who started the tests may ignore a signal, which a shell then can't trap.
        ["env", "--default-signal", "sh", ROOT / "deploy" / "backup.sh", tmp_path / "backup"],
        env=os.environ | {"COMPOSE": str(fake), "LOG": str(log)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    wait_until((tmp_path / "log.stopped").exists, what="the services are being stopped")
    os.killpg(running.pid, number)
    assert running.wait(60) == 128 + number
    assert log.read_text().splitlines()[1:] == ["stop runner orthanc", "start orthanc runner"]
    assert not (tmp_path / "backup" / "orthanc.tar").exists()


def issued(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", ROOT / "deploy" / "tls.sh", *names], cwd=folder, capture_output=True, text=True, timeout=60
    )


def names_in(certificate: Path) -> set[str]:
    said = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-ext", "subjectAltName"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {one.strip() for one in said.splitlines()[1].split(",")}


def test_one_authority_issues_certificates_for_more_names(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"CXR_UID={os.getuid()}\nCXR_GID={os.getgid()}\n")
    tls = tmp_path / "tls"
    always = {"DNS:localhost", "IP Address:127.0.0.1"}
    assert issued(tmp_path, "10.0.0.5").returncode == 0
    authority = (tls / "ca.crt").read_bytes()
    first = (tls / "server.crt").read_bytes()
    assert names_in(tls / "server.crt") == always | {"IP Address:10.0.0.5"}
    assert "left as it is" in issued(tmp_path, "10.0.0.5").stdout
    assert "left as it is" in issued(tmp_path).stdout
    assert (tls / "server.crt").read_bytes() == first
    assert issued(tmp_path, "cxr.example.org", "10.0.0.5").returncode == 0
    assert names_in(tls / "server.crt") == always | {"IP Address:10.0.0.5", "DNS:cxr.example.org"}
    assert (tls / "ca.crt").read_bytes() == authority
    checked = f"openssl verify -CAfile {tls}/ca.crt -verify_hostname cxr.example.org {tls}/server.crt"
    assert subprocess.run(checked.split(), capture_output=True).returncode == 0
    (tls / "ca.key").rename(tmp_path / "elsewhere")
    assert "left as it is" in issued(tmp_path, "cxr.example.org").stdout
    refused = issued(tmp_path, "other.example.org")
    assert refused.returncode == 2
    assert "ca.key is not here" in refused.stderr


def test_a_certificate_of_ones_own_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"CXR_UID={os.getuid()}\nCXR_GID={os.getgid()}\n")
    assert issued(tmp_path, "pacs.example.org").returncode == 0
    for gone in ("ca.key", "ca.crt"):  # a public authority's, which stands in no folder
        (tmp_path / "tls" / gone).unlink()
        held = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
        assert issued(tmp_path, "other.example.org").returncode == 2
        assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == held
