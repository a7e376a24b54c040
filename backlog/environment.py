"""The only reader of the process's environment, and what is set in it for libraries and child processes.

Every setting is one field of :class:`backlog.settings.Settings`. A secret may stand in a file instead: for ``CXR_X``
that is marked secret, ``CXR_X_FILE`` names it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final

from backlog.errors import UsageError
from backlog.settings import PREFIX, Settings, variable

#: What keeps a library from sending usage data to its maker, as the library's own documentation gives it.
NO_TELEMETRY: Final = {"ORT_DISABLE_TELEMETRY": "1"}  # ONNX Runtime since 1.29: Privacy.md in its package


def disable_telemetry() -> None:
    """Switch the telemetry of libraries off, for this process and those that it starts.

    Call it before such a library is imported: ONNX Runtime decides while it is initialised, makes a persistent device
    identifier, and looks up its maker's server within seconds; its `disable_telemetry_events` comes too late.
    """
    os.environ.update(NO_TELEMETRY)


def keep_font_cache_in(folder: Path) -> None:
    """Let matplotlib write its list of fonts below a folder of ours, instead of below the user's home.

    Call it before matplotlib is imported. A user's own ``MPLCONFIGDIR`` stays.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Parameters
    ----------
    environment
        Instead of the process's own.

    Raises
    ------
    UsageError
        A value has the wrong form or is out of its range, a secret's file can't be read, or a variable with
        our prefix is unknown (a misspelt setting would otherwise be ignored in silence).
    """
    given = dict(os.environ if environment is None else environment)
    check_names(given)
    known, secrets = _variables()
    values: dict[str, object] = {}
    for name in secrets:
        value = name.removesuffix("_FILE")
        if given.get(name, "").strip() and given.get(value, "").strip():
            raise UsageError(f"{value} and {name} are both set: unset one of them")
    for name, text in given.items():
        if name in known:
            values.setdefault(known[name].name, _parse(known[name], name, text))
        elif name in secrets and text.strip():  # compose passes on what is not set as empty
            values[secrets[name].name] = _secret(name, text)
    return Settings(**values)  # type: ignore[arg-type]  # built from the fields themselves


def check_names(environment: Mapping[str, str] | None = None) -> None:
    """Refuse variables with our prefix that name no setting; their values are not looked at.

    Parameters
    ----------
    environment
        Instead of the process's own.

    Raises
    ------
    UsageError
        One is misspelt, or has another name now.
    """
    settings, secrets = _variables()
    known = [*settings, *secrets]
    for name in os.environ if environment is None else environment:
        if not name.startswith(PREFIX) or name in known or name in _ELSEWHERE:
            continue
        if name in RENAMED:
            raise UsageError(f"the setting {name} is now called {RENAMED[name]}: rename it")
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see the README's table of settings"
        raise UsageError(f"unknown setting {name}: {hint}")


def _variables() -> tuple[dict[str, Field[Any]], dict[str, Field[Any]]]:
    """Return the settings by their variables, and secrets by the variables that name files with them."""
    known = {variable(f): f for f in fields(Settings)}
    return known, {f"{name}_FILE": f for name, f in known.items() if f.metadata["secret"]}


def interface_language(environment: Mapping[str, str] | None = None) -> str:
    """Return the language of the terminal and of pages: CXR_LANGUAGE, else the locale's (POSIX 8.2), else English.

    Reports, which are kept, follow CXR_LANGUAGE alone.
    """
    given = os.environ if environment is None else environment
    chosen = given.get(f"{PREFIX}LANGUAGE", "").strip()
    if chosen:
        return "pt-BR" if chosen == "pt-BR" else "en"
    locale = next((given[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if given.get(name)), "")
    return "pt-BR" if locale.partition("_")[0].partition(".")[0].lower() == "pt" else "en"


def log_form(environment: Mapping[str, str] | None = None) -> str:
    """Return CXR_LOG before the settings are read, which refuses a wrong value; until then it is ``human``."""
    given = os.environ if environment is None else environment
    return "json" if given.get(f"{PREFIX}LOG", "").strip() == "json" else "human"


def child_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with some settings, by field name, for a process that we start."""
    given = {PREFIX + name.upper(): value for name, value in settings.items()}
    inherited = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in given}
    return inherited | given


#: Settings of earlier versions, refused with the name that they have now.
RENAMED: Final = {
    "CXR_COMPANIONS": "CXR_DERIVED_OBJECTS",
    "CXR_PATIENCE_SECONDS": "CXR_PACS_RETRY_SECONDS",
    "CXR_ITEM_SECONDS": "CXR_DECODE_TIMEOUT_SECONDS",
    "CXR_ITEM_MEGABYTES": "CXR_DECODE_MEMORY_MB",
}

#: Variables with our prefix that other programs read: the tests, compose.
_ELSEWHERE: Final = frozenset(
    PREFIX + name
    for name in (
        "TEST_DATA INBOX OUT MODELS BIND UID GID TLS TLS_BIND INTERNAL SERVER REDIS_PORT "
        "ORTHANC_DICOM ORTHANC_AET ORTHANC_DICOM_PORT RETRIEVE_LIMIT DICOM_BIND "
        "ORTHANC_PORT ORTHANC_TLS_PORT ORTHANC_PLUGINS "
        "VIEWER_PORT VIEWER_TLS VIEWER_TLS_BIND VIEWER_TLS_PORT VIEWER_LIMIT "
        "ORTHANC_IDENTIFIER ORTHANC_INDEX ORTHANC_STORAGE "
        "FLOWER_PORT FLOWER_USERNAME FLOWER_PASSWORD FLOWER_PREFIX FLOWER_READ_ONLY REDIS_MAXMEMORY "
        "MACHINE INFERENCE_WORKERS ENV_FILE RUNNER_LIMIT PYTHON_IMAGE REDIS_IMAGE ORTHANC_IMAGE "
        "GRAFANA_PORT GRAFANA_ROOT_URL GRAFANA_USERNAME GRAFANA_PASSWORD PROMETHEUS_KEEP "
        "REDIS_LIMIT ORTHANC_LIMIT UPLOAD_LIMIT INFERENCE_LIMIT INFERENCE_GPU_LIMIT REPORT_LIMIT "
        "FLOWER_LIMIT PRODUCER_LIMIT PROMETHEUS_LIMIT GRAFANA_LIMIT"
    ).split()
)


def _secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"{name} names a file that can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} names a file that is no UTF-8 text: write it again as that") from error


#: What a setting's value is, for a user who wrote another.
_KINDS: Final = {int: "whole number", float: "decimal number", bool: "true or false", str: "text"}


def _parse(setting: Field[Any], name: str, text: str) -> object:
    assert setting.default is not MISSING  # noqa: S101  # every setting has a default
    kind = type(setting.default)
    text = text.strip()
    if setting.metadata["secret"] or setting.name == "pacs_username":  # sent as UTF-8, whatever the locale is
        try:
            text = text.encode(errors="surrogateescape").decode()
        except UnicodeDecodeError:
            raise UsageError(f"{name} is no UTF-8 text: write it again as that") from None
    choices = setting.metadata["choices"]
    if text == "" and (choices or kind is not str):
        return setting.default  # compose passes on what is not set as empty
    if choices and text not in choices:
        raise UsageError(f"{name}={text!r} is none of {', '.join(choices)}")
    parse: Callable[[str], object] = _boolean if kind is bool else kind
    try:
        value = parse(text)
    except ValueError as error:
        raise UsageError(f"{name}={text!r} is no {_KINDS[kind]}") from error
    allowed = setting.metadata["allowed"]
    if allowed and not allowed[0] <= float(str(value)) <= allowed[1]:  # never true of NaN
        raise UsageError(f"{name}: {text} is not allowed: from {allowed[0]} to {allowed[1]}")
    return value


def _boolean(text: str) -> bool:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]
