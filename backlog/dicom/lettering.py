"""The letters of words that headers hold: in any script, in whatever character set they were really written.

A Code String is ASCII (PS3.5 6.2), and archives write words of their language there all the same: in the declared
character set, in another one, or with the accented letters damaged on the way. Nothing here decides what a word
means; :mod:`backlog.dicom.terms` does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import Final

#: A text beyond this is no term. LO has 64 characters at most.
MAX_TEXT: Final = 256

#: Letters with a stroke or joined, which no Unicode decomposition takes apart.
_JOINED: Final = str.maketrans(
    {"Ł": "L", "ł": "l", "Ø": "O", "ø": "o", "Đ": "D", "đ": "d", "Œ": "OE", "œ": "oe", "Æ": "AE", "æ": "ae"}
)
#: Character sets in which a PACS, a DOS, a Windows or a Mac may have written the words of our lists.
_SETS: Final = (
    *("utf-8", "cp850", "cp437", "cp860", "cp1252", "mac_roman", "iso8859-2", "cp1250", "cp852"),
    *("cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "mac_cyrillic"),
    *("iso8859-6", "cp1256", "cp864", "iso8859-9", "cp857"),
    *("gb18030", "big5", "shift_jis", "euc_jp", "iso2022_jp_1", "cp949", "iso2022_kr"),
)
_LETTERS: Final = re.compile(r"[^\W\d_]+")
#: Scripts that write without spaces between words: kana, Han, Hangul.
_UNSPACED: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in capitals, without accents, digits and signs."""
    return tuple(_LETTERS.findall(fold(text)))


def fold(text: str) -> str:
    """Return a text in capitals, with accents dropped and letters of double or half width made plain."""
    apart = unicodedata.normalize("NFKD", text[:MAX_TEXT].translate(_JOINED))
    kept = "".join(letter for letter in apart if unicodedata.category(letter) != "Mn")
    return unicodedata.normalize("NFC", kept).upper()


def is_unspaced(word: str) -> bool:
    """Whether a word is of a script that writes without spaces: it may hold several terms."""
    return _UNSPACED.search(word) is not None


def readings(text: str) -> Iterator[str]:
    """Yield the text as it would read in other character sets than the one in which it was read.

    Parameters
    ----------
    text
        As the declared character set reads it, or as Latin-1, which keeps every byte.
    """
    if text.isascii() and "\x1b" not in text:
        return
    for first in ("latin-1", "cp1252", "iso8859-2", "iso8859-5", "iso8859-6", "iso8859-9"):
        try:
            raw = text[:MAX_TEXT].encode(first)
        except UnicodeEncodeError:
            continue
        for name in _SETS:
            try:
                yield raw.decode(name)
            except (UnicodeDecodeError, LookupError):
                continue


def damaged_words(text: str, *, beyond_ascii: bool) -> Iterator[re.Pattern[str]]:
    """Yield the words of which letters are unreadable, as patterns of what they may have been.

    A question mark, a replacement character or another sign inside a word stands for one letter; a run of them may
    stand for half as many, as UTF-8 has two bytes for an accented letter. At least two letters and half of the word
    must be readable, else it could be anything.

    Parameters
    ----------
    text
        As :func:`readings` takes it.
    beyond_ascii
        Whether bytes beyond ASCII, read as Latin-1, count as unreadable too: no character set explained them.
    """

    def is_hole(letter: str) -> bool:
        return not letter.isalpha() or (beyond_ascii and "\x7f" < letter <= "\xff")

    for part in text[:MAX_TEXT].split():
        word = part.strip("-./,;:&+()[]_'\"")
        pieces = ["".join(group) for _, group in groupby(word, is_hole)]
        holes = sum(len(piece) for piece in pieces if is_hole(piece[0]))
        if not holes or len(word) - holes < max(2, holes):
            continue
        yield re.compile(
            "".join(
                rf"[^\W\d_]{{{(len(piece) + 1) // 2},{len(piece)}}}" if is_hole(piece[0]) else fold(piece)
                for piece in pieces
            )
        )
