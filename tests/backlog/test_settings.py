"""What a setting is: its help, its secrecy, and what follows from several of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backlog.environment import from_environment
from backlog.settings import Settings


def test_every_setting_has_a_line_of_help() -> None:
    for setting in dataclasses.fields(Settings):
        assert setting.metadata["help"].endswith("."), setting.name
        assert "|" not in setting.metadata["help"], "it would break the README's table"


def test_secrets_are_not_printed() -> None:
    shown = repr(from_environment({"CXR_PACS_PASSWORD": "hush", "CXR_REDIS_URL": "redis://:hush@h"}))
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("url", "password", "broker"),
    [
        ("redis://host:1/0", "", "redis://host:1/0"),
        ("redis://host:1/0", "p@ss/w:rd", "redis://:p%40ss%2Fw%3Ard@host:1/0"),
        ("rediss://me@host/0", "secret", "rediss://me:secret@host/0?ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_ca_certs=/ca", "", "rediss://host/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "", "rediss://host/0?ssl_cert_reqs=none"),
        ("redis://:mine@host/0", "other", "redis://:mine@host/0"),
        ("redis+socket:///run/redis.sock", "secret", "redis+socket:///run/redis.sock"),
        ("redis://[::1", "secret", "redis://[::1"),
    ],
)
def test_the_brokers_password_is_put_into_its_address(url: str, password: str, broker: str) -> None:
    assert from_environment({"CXR_REDIS_URL": url, "CXR_REDIS_PASSWORD": password}).broker == broker


def test_the_cache_folder_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().cache_folder == tmp_path / ".cache" / "cxr-backlog"
    assert Settings(cache="~/models").cache_folder == tmp_path / "models"
