"""The values of a header that pydicom read, taken from its raw elements: none of these functions raises.

A hostile value can't make a conversion fail that is not made, and no message quotes one.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from backlog.dicom.character_sets import DEFAULT_REPERTOIRE, quietly, terms_of


@dataclass(frozen=True)
class Raw:
    """A value as it stands in the file."""

    value: bytes
    little: bool


def text(header: Dataset, keyword: str) -> str:
    """Return an attribute's text without padding, its values joined by a backslash; empty when absent.

    Meant for codes, numbers and UIDs.
    """
    value = raw_bytes(header, keyword).value
    try:
        decoded = value.decode("utf-8")
    except UnicodeDecodeError:
        decoded = value.decode("latin-1")
    return decoded.strip(" \0")


def free_text(header: Dataset, keyword: str) -> str:
    """Return an attribute's text as :func:`text`, in the letters that its declared character set gives it.

    Where none is declared, or what it gives can't be, it is read as UTF-8, else as Latin-1, which keeps every byte:
    :mod:`backlog.dicom.lettering` then looks for other sets. Words are looked for in it; nothing is written from it.
    """
    value = raw_bytes(header, keyword).value
    if not value.isascii() or b"\x1b" in value:
        terms = terms_of(raw_bytes(header, "SpecificCharacterSet").value)
        with quietly():
            try:
                declared = decode_bytes(value, convert_encodings(terms), {ord("\\")})
            except (LookupError, ValueError):
                declared = "\ufffd"
        if any(term not in DEFAULT_REPERTOIRE for term in terms) and "\ufffd" not in declared:
            return str(declared).strip(" \0")
    return text(header, keyword)


def number(header: Dataset, attribute: str | int) -> int | None:
    """Return the first value of an attribute of 16-bit words, read as unsigned; None when absent."""
    values = number_list(header, attribute)
    return values[0] if values else None


def number_list(header: Dataset, attribute: str | int) -> tuple[int, ...]:
    """Return the values of an attribute of 16-bit words (VR US, SS or OW), read as unsigned."""
    element = _element(header, attribute)
    if element is None:
        return ()
    count = len(element.value) // 2
    return struct.unpack_from(f"{'<' if element.little else '>'}{count}H", element.value)


def decimal(header: Dataset, keyword: str) -> float | None:
    """Return the value of an attribute of VR DS; None when absent, malformed or not finite."""
    try:
        value = float(text(header, keyword))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def decimals(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the values of an attribute of VR DS or IS; none when one is malformed or not finite."""
    try:
        values = tuple(float(value) for value in text(header, keyword).split("\\"))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def sequence(header: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence; none when it is absent or can't be read."""
    with quietly():
        try:
            items = header.get(keyword)
            # A file may give it any value representation: numbers are no items.
            return tuple(items) if isinstance(items, Sequence) else ()
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # foreign bytes can make the conversion raise anything
            return ()


def codes(header: Dataset, keyword: str, below: str = "") -> tuple[tuple[str, str], ...]:
    """Return value and meaning of a code sequence's items, and of those of a sequence inside each.

    Parameters
    ----------
    header
        What :func:`backlog.dicom.header.read_header` read.
    keyword
        The sequence.
    below
        A sequence inside its items; empty for none.
    """
    found: list[tuple[str, str]] = []
    for item in sequence(header, keyword):
        found.append((text(item, "CodeValue") or text(item, "LongCodeValue"), text(item, "CodeMeaning")))
        found += codes(item, below) if below else ()
    return tuple(found)


def raw_bytes(header: Dataset, attribute: str | int) -> Raw:
    """Return an attribute's value as it stands in the file; empty when absent."""
    return _element(header, attribute) or Raw(b"", little=True)


def _element(header: Dataset, attribute: str | int) -> Raw | None:
    tag = tag_for_keyword(attribute) if isinstance(attribute, str) else attribute
    assert tag is not None, attribute  # noqa: S101  # a misspelt keyword is a bug
    element = header.get_item(tag, keep_deferred=True)  # without it an empty one is converted
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    return Raw(element.value, little=element.is_little_endian)
