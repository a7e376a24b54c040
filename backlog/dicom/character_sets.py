"""Specific Character Set (0008,0005): the terms of PS3.3 C.12.1.1.2 as Python's encodings, and text that is in them.

pydicom knows the terms and how they are misspelt, all but those of Latin alphabet No. 9 (ISO 8859-15).
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding

from backlog.log import silenced

#: Terms that declare ASCII alone.
DEFAULT_REPERTOIRE: Final = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})

_LATIN_9: Final = "iso8859_15"
#: With the misspellings that pydicom understands of other terms.
_LATIN_9_TERM: Final = re.compile(r"ISO[ _-](2022[ _-])?IR[ _-]203")
#: Makes it the upper half of the code table (PS3.3 table C.12-3).
_DESIGNATES_LATIN_9: Final = b"\x1b-b"
_FRAGMENTS: Final = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
#: Makes GB 2312 the upper half of the code table (PS3.5 annex K). pydicom takes out those of other sets.
_DESIGNATES_GB2312: Final = "\x1b$)A"
#: What ends the reach of an escape sequence within a value (PS3.5 section 6.1.2.5.3).
_DELIMITERS: Final = frozenset(b"\t\n\f\r^=\\")


@dataclass(frozen=True)
class CharacterSets:
    """What a header declares."""

    #: Python's names; none where it is ASCII alone, or the first term is unknown.
    encodings: tuple[str, ...] = ()
    unknown: bool = False  #: a term is none that there is: what letters it stands for, nobody can tell


@contextmanager
def quietly(action: Literal["ignore", "error"] = "ignore") -> Iterator[None]:
    """Ignore pydicom's warnings or raise them, and log none: they quote values, and those are a patient's."""
    with silenced("pydicom"), warnings.catch_warnings():
        warnings.simplefilter(action)
        yield


def encoding_of(term: str) -> str | None:
    """Return Python's name of what a single term declares, or None where it is none, or misspelt."""
    return _LATIN_9 if term in ("ISO_IR 203", "ISO 2022 IR 203") else python_encoding.get(term)


def terms_of(specific_character_set: bytes) -> list[str]:
    """Return the terms of a value, as pydicom understands them."""
    terms = [term.strip(" \0") for term in specific_character_set.decode("latin-1").split("\\")]
    return [_LATIN_9 if _LATIN_9_TERM.fullmatch(term) else term for term in terms]


def declared(specific_character_set: bytes) -> CharacterSets:
    """Return what a header's Specific Character Set declares."""
    terms = terms_of(specific_character_set)
    if all(term in DEFAULT_REPERTOIRE for term in terms):
        return CharacterSets()
    known = [term for term in terms if _is_known(term)]
    unknown = len(known) < len(terms)
    if not known or known[0] != terms[0]:
        return CharacterSets(unknown=unknown)
    with quietly():  # about spellings that pydicom understands all the same
        found = convert_encodings(known)
    # ASCII alone: pydicom has Latin-1 in its place, which gives a letter to every byte.
    return CharacterSets(tuple("ascii" if one == default_encoding else one for one in found), unknown)


def _is_known(term: str) -> bool:
    with quietly("ignore"):
        warnings.filterwarnings("error", "Unknown encoding")  # it would take Latin-1 for it
        try:
            (found,) = convert_encodings([term])
            # pydicom takes the name of any codec of Python's too: of one that gives half characters, or none.
            return codecs.lookup(found).name in _codecs()
        except (LookupError, ValueError, UserWarning):
            return False


@cache
def _codecs() -> frozenset[str]:
    """Return Python's own names of the encodings of the standard."""
    return frozenset(codecs.lookup(name).name for name in (*python_encoding.values(), _LATIN_9))


def decode(raw: bytes, encodings: Sequence[str]) -> str | None:
    """Decode a value by the encodings that its header declares.

    Returns
    -------
    str or None
        None when they do not fit the value, which is so for each value outside ASCII where none are declared.
    """
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    if not encodings:
        return None
    with quietly("error"):  # pydicom would warn, then decode with losses
        try:
            fragments = [_decoded(fragment, encodings) for fragment in _FRAGMENTS.findall(raw)]
        except (ValueError, LookupError, Warning):
            return None
    return "".join(fragments).replace(_DESIGNATES_GB2312, "")


def _decoded(fragment: bytes, encodings: Sequence[str]) -> str:
    """Decode what stands up to the next escape sequence. Raises what pydicom raises, or warns of."""
    if not fragment.startswith(_DESIGNATES_LATIN_9) or _LATIN_9 not in encodings:
        return str(decode_bytes(fragment, encodings, set(_DELIMITERS)))
    letters = fragment[len(_DESIGNATES_LATIN_9) :]
    end = next((at for at, sign in enumerate(letters) if sign in _DELIMITERS), len(letters))
    return letters[:end].decode(_LATIN_9) + letters[end:].decode(encodings[0])
