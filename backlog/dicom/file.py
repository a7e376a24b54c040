"""A DICOM file whose header is parsed once, however many ask about it: what is handed on in place of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from backlog.dicom.parser import ParsedFile, parse_file
from backlog.dicom.partial_file import parse_until_pixel_data

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from backlog.dicom.header import Identity


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A file (PS3.10), whole or its beginning. Nothing is parsed before it is asked for, and nothing twice.

    Parameters
    ----------
    content
        The bytes, at least up to the start of the pixel data.
    """

    content: bytes
    _already: ParsedFile | None = field(default=None, repr=False)

    @classmethod
    def beginning(cls, steps: Iterator[bytes]) -> DicomFile:
        """Read steps of a file until its pixel data has begun, or to its end."""
        return cls(*parse_until_pixel_data(steps))

    @cached_property
    def parsed(self) -> ParsedFile:
        """Where its parts stand.

        Raises
        ------
        InstanceRejected
            ``not_dicom``, ``too_large``: see `backlog.dicom.parser.parse_file`.
        """
        return self._already or parse_file(self.content)

    @cached_property
    def header(self) -> Dataset:
        """Everything before the pixel data, as `backlog.dicom.header.read_header` reads it. Raises as `parsed`."""
        from backlog.dicom.header import header_of  # pydicom takes 150 ms to import

        return header_of(self.parsed, self.content)

    @cached_property
    def identity(self) -> Identity:
        """Which object it is.

        Raises
        ------
        InstanceRejected
            As `parsed`; ``invalid_uid``: see `backlog.dicom.header.identity`.
        """
        from backlog.dicom.header import identity  # as above

        return identity(self.header)
