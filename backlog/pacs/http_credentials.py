"""What a session shows a PACS: a bearer token from a file, which is renewed while a run lasts."""

from __future__ import annotations

import os
from pathlib import Path

import requests
from requests.auth import AuthBase

from backlog.errors import ServiceUnavailable, UsageError


class TokenFile(AuthBase):
    """A bearer token (RFC 6750) that stands in a file, read again when the file changes.

    Parameters
    ----------
    path
        The file. Tokens run out after minutes: the program that renews them replaces it.

    Raises
    ------
    UsageError
        It can't be read, or is empty.
    ServiceUnavailable
        The same, later: while it is replaced, it may not be there for a moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""
        self.token()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request."""
        request.headers["Authorization"] = f"Bearer {self.token()}"
        return request

    def token(self) -> str:
        """Return the token as the file has it now."""
        try:
            return self._read()
        except UsageError as error:
            if self._token:  # it was there before: it is being replaced, or will be
                raise ServiceUnavailable(str(error)) from error
            raise

    def _read(self) -> str:
        try:
            with self._path.open(encoding="ascii") as file:
                state = os.fstat(file.fileno())
                seen = (state.st_mtime_ns, state.st_size, state.st_ino)
                found = self._token if seen == self._seen else file.read().strip()
        except OSError as error:
            raise UsageError(
                f"CXR_PACS_TOKEN_FILE names a file that can't be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError("CXR_PACS_TOKEN_FILE names a file that holds no token") from error
        if not found or not found.isprintable() or " " in found:
            raise UsageError("CXR_PACS_TOKEN_FILE names a file that holds no token")
        self._token, self._seen = found, seen
        return found
