"""What the environment can say, and how it is told that it said something wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from backlog.environment import RENAMED, child_environment, from_environment
from backlog.errors import UsageError
from backlog.settings import PREFIX, Settings, variable
from tests.support.servers import ROOT


def test_an_empty_environment_gives_the_defaults() -> None:
    assert from_environment({}) == Settings()


def test_every_setting_is_read_from_its_variable() -> None:
    for setting in dataclasses.fields(Settings):
        text = {str: "x", bool: "yes", int: "3", float: "2.5"}[type(setting.default)]
        if setting.metadata["choices"]:
            text = setting.metadata["choices"][-1]
        if setting.metadata["allowed"]:
            text = str(max(setting.metadata["allowed"]))
            text = str(min(setting.metadata["allowed"])) if float(text) == setting.default else text
        assert getattr(from_environment({variable(setting): text}), setting.name) != setting.default


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("CXR_CHUNK_SIZE", "many", "no whole number"),
        ("CXR_CHUNK_SIZE", "-1", "not allowed: from 1 to 64"),
        ("CXR_CHUNK_SIZE", "1.5", "no whole number"),
        ("CXR_DECODE_TIMEOUT_SECONDS", "ten", "no decimal number"),
        ("CXR_LATERALS", "perhaps", "no true or false"),
        ("CXR_LANGUAGE", "de", "none of en, pt-BR"),
        ("CXR_ENGINE", "cuda", "none of"),
        ("CXR_REDIS", "redis://x", "unknown setting CXR_REDIS"),
        ("CXR_PACS_PASSWORD_FILE", "/no/such/file", "can't be read"),
        ("CXR_PACS_URL_FILE", "/etc/hostname", "unknown setting"),  # no secret
    ],
)
def test_a_wrong_value_is_named(name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        from_environment({name: text})
    assert name in str(error.value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e309"])
def test_a_time_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="CXR_LEASE_SECONDS"):
        from_environment({"CXR_LEASE_SECONDS": text})


def test_every_number_has_a_range_and_its_default_lies_within() -> None:
    numbers = [one for one in dataclasses.fields(Settings) if type(one.default) in (int, float)]
    assert len(numbers) > 10
    for setting in numbers:
        least, most = setting.metadata["allowed"]
        assert least <= setting.default <= most
        name = variable(setting)
        for text in (least, most):
            assert getattr(from_environment({name: str(text)}), setting.name) == text
        for wrong in (least - 1, most + 1):
            with pytest.raises(UsageError, match=f"{name}: {wrong} is not allowed: from {least} to {most}"):
                from_environment({name: str(wrong)})


@pytest.mark.parametrize("name", ["WINDOW", "THREADS", "READERS", "METRICS_PORT", "RECONCILE_SECONDS"])
def test_nothing_is_a_number_where_the_help_says_so(name: str) -> None:
    assert getattr(from_environment({f"CXR_{name}": "0"}), name.lower()) == 0


def test_a_secrets_file_that_is_not_named_or_no_text(tmp_path: Path) -> None:
    assert (
        from_environment({"CXR_PACS_PASSWORD_FILE": "", "CXR_PACS_PASSWORD": "hush"}).pacs_password == "hush"
    )
    (tmp_path / "secret").write_bytes(b"gr\xfc\xdfe")
    with pytest.raises(UsageError, match=r"CXR_PACS_PASSWORD_FILE.*UTF-8"):
        from_environment({"CXR_PACS_PASSWORD_FILE": str(tmp_path / "secret")})


def test_an_empty_value_is_the_default() -> None:
    """Compose passes on variables that are not set as empty ones."""
    assert from_environment({"CXR_WINDOW": "", "CXR_LATERALS": " ", "CXR_ENGINE": ""}) == Settings()


def test_booleans_are_read_as_people_write_them() -> None:
    for text, value in [
        ("1", True),
        ("TRUE", True),
        ("on", True),
        ("No", False),
        ("0", False),
        ("off", False),
    ]:
        assert from_environment({"CXR_LATERALS": text}).laterals is value


def test_a_secret_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush hush\n")
    environment = {"CXR_PACS_PASSWORD_FILE": str(tmp_path / "secret"), "CXR_PACS_PASSWORD": ""}
    assert from_environment(environment).pacs_password == "hush hush"
    assert from_environment(dict(reversed(environment.items()))).pacs_password == "hush hush"
    with pytest.raises(UsageError, match="are both set"):
        from_environment(environment | {"CXR_PACS_PASSWORD": "other"})


@pytest.mark.parametrize("name", ["CXR_PACS_USERNAME", "CXR_PACS_PASSWORD", "CXR_REDIS_PASSWORD"])
def test_a_password_is_utf_8_in_every_locale(name: str) -> None:
    """With ``LC_ALL=C PYTHONUTF8=0`` Python hands bytes beyond ASCII on as lone surrogates (PEP 383)."""
    in_c = "preço: 5 €".encode().decode("ascii", "surrogateescape")
    assert getattr(from_environment({name: in_c}), name.removeprefix("CXR_").lower()) == "preço: 5 €"
    with pytest.raises(UsageError, match=f"{name} is no UTF-8 text") as caught:
        from_environment({name: b"s\xe9samo".decode("ascii", "surrogateescape")})
    assert "samo" not in str(caught.value)


def test_a_child_gets_this_environment_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_LANGUAGE", "pt-BR")
    environment = child_environment(pacs_url="/x", threads="2")
    assert from_environment({k: v for k, v in environment.items() if k.startswith(PREFIX)}) == Settings(
        language="pt-BR", pacs_url="/x", threads=2
    )


def test_every_variable_of_the_stack_is_known_or_ignored() -> None:
    """A user who exports `.env` and runs a command beside the stack is not told that a setting is unknown."""
    files = [ROOT / "docker-compose.yml", ROOT / "orthanc.json", *(ROOT / "deploy").rglob("*")]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    names = set(re.findall(r"\bCXR_[A-Z0-9_]*[A-Z0-9]\b", text))
    assert len(names) > 30
    for name in names:
        from_environment({name: ""})


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED.items()))
def test_a_renamed_setting_is_refused_with_its_new_name(old: str, new: str) -> None:
    assert new in {variable(one) for one in dataclasses.fields(Settings)}
    with pytest.raises(UsageError, match=f"{old} is now called {new}"):
        from_environment({old: "1"})
