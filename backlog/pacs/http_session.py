"""One kept connection to a PACS that speaks HTTP: credentials, certificates, timeouts, no redirects, no retries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, Timeout
from urllib3.exceptions import ProtocolError

from backlog.errors import ForeignAnswer, ServiceUnavailable, UsageError
from backlog.pacs.http_credentials import TokenFile
from backlog.pacs.http_errors import credentials, translated


class HttpSession:
    """Requests to one PACS. One per process: its connections are kept alive.

    Parameters
    ----------
    url
        Address without user and password.
    username
        Of HTTP basic authentication; empty for none.
    password
        Of the same user.
    ca
        Path of a file of certificate authorities (PEM); empty for the system's.
    token_file
        Path of a file with a bearer token, instead of a user; it may change at any time.
    certificate
        Path of a file with the client's certificate (PEM), where the server asks for one.
    key
        Path of a file with its private key; empty where the certificate's file holds it.
    seconds
        How long to wait for an answer.

    Raises
    ------
    UsageError
        The address holds a user, one of the files is not there, or both a user and a token are given.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str = "",
        password: str = "",
        ca: str = "",
        token_file: str = "",
        certificate: str = "",
        key: str = "",
        seconds: float = 60.0,
    ) -> None:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UsageError(
                "the PACS's user and password belong in CXR_PACS_USERNAME and CXR_PACS_PASSWORD, not in its address"
            )
        self.url = url.rstrip("/")
        #: The pool of connections, and a request with all headers, once they are needed.
        self._prepared: tuple[HTTPConnectionPool, requests.PreparedRequest] | None = None
        self._timeout = (min(5.0, seconds), seconds)
        self._was_let_in = False  #: it has answered with something else than a refusal
        self._session = requests.Session()
        self._session.mount(self.url, HTTPAdapter(pool_connections=1, pool_maxsize=32))
        # Orthanc compresses for a client that offers it, as requests does by default: 450 ms instead of 9 for 10 MB.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.auth = credentials(username, password)
        self._session.trust_env = False  # no proxy and no netrc between a hospital's worker and its PACS
        if token_file:
            if username:
                raise UsageError("CXR_PACS_USERNAME and CXR_PACS_TOKEN_FILE are both set: unset one of them")
            self._session.auth = TokenFile(Path(token_file))
        for name, path in (("CA", ca), ("CERTIFICATE", certificate), ("KEY", key)):
            if path and not Path(path).is_file():
                raise UsageError(f"CXR_PACS_{name} names no file: {path}")
        if ca:
            self._session.verify = ca
        if certificate:
            self._session.cert = (certificate, key) if key else certificate

    def request(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send one request and return its answer, whatever its status.

        Parameters
        ----------
        method
            ``GET``, ``POST``, ``PUT`` or ``DELETE``.
        path
            What follows the address, with its slash and query.
        more
            Arguments of `requests.request`: ``data``, ``json``, ``headers``, ``stream``, ``timeout``.

        Raises
        ------
        ServiceUnavailable
            There is no answer.
        UsageError
            The address is none, its certificate is not trusted, or it redirects elsewhere.
        """
        with translated(self.url):
            # A redirected POST would arrive as a GET, and look like a refusal of every image.
            ask = partial(
                self._session.request,
                method,
                self.url + path,
                allow_redirects=False,
                **({"timeout": self._timeout} | more),
            )
            try:
                response = ask()
            except requests.ConnectionError as error:
                if not _was_idle(error):
                    raise
                response = ask()
        if response.is_redirect:
            response.close()
            raise self._redirected()
        self._was_let_in |= response.ok
        return response

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the whole body of an answer, by the library below `requests`: 0.2 ms instead of 0.6.

        Parameters
        ----------
        path
            As for `request`, which raises the same errors.
        """
        if self._session.cookies:  # of a proxy that spreads its clients: the library below keeps none
            response = self.request("GET", path, stream=True)
            with response:
                return response.status_code, self.body(response)
        with translated(self.url):
            pool, root, headers = self._signed()
            ask = partial(
                pool.urlopen,
                "GET",
                root + path,
                headers=headers,
                timeout=Timeout(connect=self._timeout[0], read=self._timeout[1]),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                answer = ask()
            except ProtocolError as error:
                if not _was_idle(error):
                    raise
                answer = ask()
            try:
                body = answer.read()
            finally:
                answer.release_conn()
        self._check_whole(body, answer.headers)
        if answer.get_redirect_location():
            raise self._redirected()
        self._was_let_in |= answer.status < 400
        return answer.status, body

    def ran_out(self, status: int) -> ServiceUnavailable | None:
        """Return the error of a refusal that a new token ends: of one that was good before.

        Parameters
        ----------
        status
            What the server answered.
        """
        if status == 401 and self._was_let_in and isinstance(self._session.auth, TokenFile):
            return ServiceUnavailable(
                f"the PACS at {self.url} takes the token no longer (401): it has run out, or was withdrawn. Put a new"
                " one into CXR_PACS_TOKEN_FILE"
            )
        return None

    def _signed(self) -> tuple[HTTPConnectionPool, str, dict[str, str]]:
        """Return the connections of `requests`, with its certificates, the address's path, and all headers."""
        if self._prepared is None:
            prepared = self._session.prepare_request(requests.Request("GET", self.url))
            adapter: Any = self._session.get_adapter(self.url)
            verify, cert = self._session.verify, self._session.cert
            found: HTTPConnectionPool = adapter.get_connection_with_tls_context(prepared, verify, cert=cert)
            adapter.cert_verify(found, self.url, verify, cert)
            self._prepared = (found, prepared)
        pool, prepared = self._prepared
        headers = dict(prepared.headers)
        if isinstance(self._session.auth, TokenFile):
            headers["Authorization"] = f"Bearer {self._session.auth.token()}"
        return pool, urlsplit(prepared.url or "").path.rstrip("/"), headers

    def body(self, response: requests.Response) -> bytes:
        """Read a body in one go; `requests` would read it in steps of 10 kB."""
        with translated(self.url):
            body: bytes = response.raw.read()
        self._check_whole(body, response.headers)
        return body

    def _check_whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        announced = headers.get("Content-Length")
        if announced is not None and len(body) != int(announced):
            raise ServiceUnavailable(f"the PACS at {self.url} broke off an answer")

    def _redirected(self) -> ForeignAnswer:
        return ForeignAnswer(f"the PACS at {self.url} redirects elsewhere: give its own address")

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _was_idle(error: requests.ConnectionError | ProtocolError) -> bool:
    """Whether a server closed a connection as the request was on its way, without an answer (RFC 9112 section 9.3.1).

    Orthanc closes an idle connection after a second. Where its answers take that long, every second request would
    fail, and with it all that needs more than one. None of our requests does harm when it is made twice.
    """
    cause = error if isinstance(error, ProtocolError) else error.args[0] if error.args else None
    inner = cause.args[1] if isinstance(cause, ProtocolError) and len(cause.args) > 1 else None
    return isinstance(inner, (RemoteDisconnected, ConnectionResetError, BrokenPipeError))
