"""Why a request to a PACS failed, in words that lead to what is wrong: its address, its scheme, its host, or itself."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import BadStatusLine, RemoteDisconnected
from typing import Final

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from backlog.errors import BacklogError, ServiceUnavailable, UsageError

_NO_ADDRESS: Final = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)

#: What OpenSSL says of a server that answers without TLS.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")


def credentials(username: str, password: str) -> HTTPBasicAuth | None:
    """Return what a session sends with each request: in UTF-8 (RFC 7617), where requests alone takes Latin-1."""
    return HTTPBasicAuth(username.encode(), password.encode()) if username else None


#: What a server says that takes no client, or not this one, without a certificate that it trusts (RFC 8446, 6.2); and
#: what OpenSSL says of a key of another certificate.
_CLIENT: Final = (
    *("CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_UNKNOWN"),
    *("ALERT_CERTIFICATE_EXPIRED", "ALERT_CERTIFICATE_REVOKED", "ALERT_UNSUPPORTED_CERTIFICATE"),
    *("ALERT_ACCESS_DENIED", "KEY_VALUES_MISMATCH"),
)

#: What a server says for either reason: no common parameters, or, before TLS 1.3, no client's certificate.
_EITHER: Final = "HANDSHAKE_FAILURE"

#: No version of TLS, or no cipher, that both sides accept (RFC 8446, 6.2; the last two are OpenSSL's own).
_NOTHING_IN_COMMON: Final = (
    *("ALERT_PROTOCOL_VERSION", "ALERT_INSUFFICIENT_SECURITY"),
    *("UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"),
)


#: A server's or a proxy's own limit (RFC 9110, 15.5.14), which other images of a run may pass: nothing to wait for.
TOO_LARGE_A_REQUEST: Final = (
    "the PACS, or a proxy before it, takes no request of this size (413):"
    " raise that limit, then replay the item"
)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what requests and urllib3 raise into our errors.

    Parameters
    ----------
    url
        The address of the PACS, as the user gave it.

    Raises
    ------
    UsageError
        The address is none, the certificate is not trusted, or what answers speaks no TLS.
    ServiceUnavailable
        Its host is not found, nothing listens there, or it doesn't answer, or not in HTTP.
    """
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _error(url, error) from error


def _error(url: str, error: Exception) -> BacklogError:
    causes = list(_causes(error))
    names = " ".join(str(cause) for cause in causes)
    if any(isinstance(cause, _NO_ADDRESS) for cause in causes):
        return UsageError(f"{url!r} is no address of a PACS")
    if any(isinstance(cause, ssl.SSLError) for cause in causes) and any(word in names for word in _CLIENT):
        # Since TLS 1.3 it comes in place of the first answer, and requests takes it for a broken connection.
        return UsageError(
            f"the PACS at {url} takes no client without a certificate that it trusts, with its key: see"
            " CXR_PACS_CERTIFICATE, CXR_PACS_KEY"
        )
    if isinstance(error, requests.exceptions.SSLError) or any(
        isinstance(cause, urllib3.exceptions.SSLError) for cause in causes
    ):
        if _EITHER in names:
            return UsageError(
                f"the PACS at {url} broke off the TLS handshake: it has no TLS version and cipher in common with this"
                " machine, or it takes no client without a certificate that it trusts: see its TLS settings, and"
                " CXR_PACS_CERTIFICATE, CXR_PACS_KEY"
            )
        if any(word in names for word in _NOTHING_IN_COMMON):
            return UsageError(
                f"the PACS at {url} has no TLS version and cipher in common with this machine, which needs TLS 1.2"
                " or newer: see its TLS settings"
            )
        if any(word in names for word in _NO_TLS):
            return UsageError(
                f"the PACS at {url} speaks no TLS: its address begins with http://, see CXR_PACS_URL"
            )
        return UsageError(f"the certificate of the PACS at {url} is not trusted: see CXR_PACS_CA")
    return ServiceUnavailable(f"the PACS at {url} is unavailable: {_reason(causes, error)}")


def _reason(causes: list[BaseException], error: Exception) -> str:
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return "no host of this name is known here"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "nothing listens at this port"
    if any(
        isinstance(cause, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError))
        for cause in causes
    ):
        return "it does not answer in time"
    if any(
        isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected) for cause in causes
    ):
        return "what answers there does not speak HTTP"  # a proxy in trouble, else another service's port
    if any(isinstance(cause, (RemoteDisconnected, ConnectionError)) for cause in causes):
        return "it closed the connection without an answer"
    return error.__class__.__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was made of: requests and urllib3 wrap each other's in arguments."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
