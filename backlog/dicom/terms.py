"""The words and codes by which headers name the chest, other parts of the body, and a view.

BodyPartExamined and ViewPosition are typed by vendors and people, in English and in the language of the house.
The words stand in ``body_parts.tsv`` and ``views.tsv``, a column for each language, the codes in
``region_codes.tsv`` (PS3.16 CID 4009, 4030 and 4031) and ``view_codes.tsv`` (CID 4010): tables that a
radiographer can read and correct.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from backlog.dicom.lettering import damaged_words, fold, is_unspaced, readings, words

_FOLDER: Final = Path(__file__).parent


class Body(Enum):
    """What a header says about the part of the body."""

    CHEST = "chest"
    OTHER = "other"
    UNREADABLE = "unreadable"  #: something that is not understood
    UNKNOWN = "unknown"  #: nothing


class View(Enum):
    """What a header says about the direction of the view."""

    FRONTAL = "frontal"
    LATERAL = "lateral"  #: lateral, oblique, decubitus, lordotic, …: not what the model was trained on
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Terms:
    """The terms of one table: what each means, by its words in capitals without accents."""

    meanings: Mapping[tuple[str, ...], str]
    beginnings: Mapping[str, str]  #: the same for words that only begin so
    unspaced: Mapping[str, str]  #: of the terms, those of scripts without spaces
    longest: int  #: words of the longest one

    def found(self, text: str) -> tuple[frozenset[str], bool]:
        """Return what the terms in a text mean, and whether anything in it is no term."""
        given = words(text)
        meanings: set[str] = set()
        at, more = 0, False
        while at < len(given):
            for count in range(min(self.longest, len(given) - at), 0, -1):
                meaning = self.meanings.get(given[at : at + count])
                if meaning is not None:
                    meanings.add(meaning)
                    at += count
                    break
            else:
                inside = self._inside(given[at])
                meanings |= inside
                more = more or not inside
                at += 1
        return frozenset(meanings), more

    def _inside(self, word: str) -> set[str]:
        """Return what a word means that is no term: by its beginning, or by the terms inside one without spaces.

        Of these the longest counts at each place, and none of one character, which is too often a part of another.
        """
        meanings = {meaning for beginning, meaning in self.beginnings.items() if word.startswith(beginning)}
        if not is_unspaced(word):
            return meanings
        at = 0
        while at < len(word):
            for end in range(len(word), at + 1, -1):
                meaning = self.unspaced.get(word[at:end])
                if meaning is not None:
                    meanings.add(meaning)
                    at = end
                    break
            else:
                at += 1
        return meanings

    def undamaged(self, text: str) -> frozenset[str]:
        """Return what a text means whose words have unreadable letters; nothing where a word may mean two things."""
        for beyond_ascii in (False, True):
            meanings: set[str] = set()
            for pattern in damaged_words(text, beyond_ascii=beyond_ascii):
                single = (term for term in self.meanings if len(term) == 1)
                possible = {self.meanings[term] for term in single if pattern.fullmatch(term[0])}
                if len(possible) > 1:
                    return frozenset()
                meanings |= possible
            if meanings:
                return frozenset(meanings)
        return frozenset()


def _rows(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


@cache
def _terms(name: str, *, described: bool) -> Terms:
    """Read a table of words: those with a star, which mean other things too in a free text, only for an attribute."""
    meanings: dict[tuple[str, ...], str] = {}
    beginnings: dict[str, str] = {}
    for row in _rows(name):
        for cell in (cell for column, cell in row.items() if column != "means"):
            for term in filter(None, (term.strip() for term in cell.split(","))):
                if term.endswith("…"):
                    beginnings.setdefault(fold(term[:-1]), row["means"])
                elif not (described and term.endswith("*")):
                    meanings.setdefault(words(term), row["means"])
    unspaced = {term[0]: meaning for term, meaning in meanings.items() if is_unspaced(term[0])}
    return Terms(meanings, beginnings, unspaced, max(map(len, meanings)))


@cache
def _codes(name: str) -> Mapping[str, str]:
    """Read a table of codes: what each Code Value means, of either SNOMED."""
    return {
        value: row["means"]
        for row in _rows(name)
        for column, value in row.items()
        if column not in ("means", "meaning") and value
    }


# -- the part of the body ------------------------------------------------------------------------------------


def _body(meanings: frozenset[str]) -> Body:
    if "chest" in meanings:
        # The bones of the chest are seen with another technique: beside the chest they leave the matter open.
        return Body.UNKNOWN if "bone" in meanings else Body.CHEST
    return Body.OTHER if meanings & {"bone", "other"} else Body.UNKNOWN


@lru_cache(maxsize=4096)
def body_examined(text: str, also: frozenset[str]) -> Body:
    """Return what part Body Part Examined names.

    Parameters
    ----------
    text
        The attribute's value, as the declared character set reads it or as Latin-1.
    also
        More terms, in capitals, that mean the chest in this archive.

    Notes
    -----
    The words are looked up as they are read; else in every other character set that fits, where all that yield a
    known word must agree; else with its unreadable letters standing for any letter.
    """
    if text.strip().upper() in also or fold(text).strip() in also:
        return Body.CHEST
    terms = _terms("body_parts.tsv", described=False)
    meanings, more = terms.found(text)
    if meanings - {"silent"}:
        return _body(meanings)
    if not more and text.isascii() and "?" not in text and text.isprintable():
        return Body.UNKNOWN
    read = [(meanings, more), *(terms.found(reading) for reading in readings(text))]
    known = [one for one in read if one[0] - {"silent"}]
    # One that is understood to its last word is no accident.
    others = {_body(meanings) for meanings, _ in [one for one in known if not one[1]] or known}
    if not others:
        guessed = terms.undamaged(text)
        others = {_body(guessed)} if guessed else set()
    if not others and any(meanings == {"silent"} for meanings, more in read if not more):
        return Body.UNKNOWN
    return others.pop() if len(others) == 1 else Body.UNREADABLE


@lru_cache(maxsize=4096)
def body_described(text: str) -> Body:
    """Return what part a free text names: only known words count, and the chest wins."""
    terms = _terms("body_parts.tsv", described=True)
    for reading in (text, *readings(text)):
        meanings = terms.found(reading)[0] - {"silent"}
        if meanings:
            return _body(meanings)
    return Body.UNKNOWN


def names_only_chest(text: str) -> bool:
    """Whether a free text names the chest, and no bone or other part beside it."""
    return _terms("body_parts.tsv", described=True).found(text)[0] - {"silent"} == {"chest"}


def body_of_codes(codes: Iterable[str], meanings: Iterable[str] = ()) -> Body:
    """Return what part of the body a region's codes name; the chest wins.

    Parameters
    ----------
    codes
        Code Values.
    meanings
        Their Code Meanings, which speak where a code is in no table (a private one, say).
    """
    table = _codes("region_codes.tsv")
    given = [code for code in codes if code]
    known = frozenset(table[code] for code in given if code in table)
    if known:
        return _body(known)
    named = {body_described(meaning) for meaning in meanings} - {Body.UNKNOWN}
    if named:
        return Body.CHEST if Body.CHEST in named else Body.OTHER
    return Body.UNREADABLE if given else Body.UNKNOWN


#: Patient Species Code Sequence of a human: SNOMED CT and RT (PS3.16 CID 7454 has the animals).
_HUMAN_CODES: Final = frozenset({"337915000", "L-85B00"})
_HUMAN_WORDS: Final = frozenset(
    """
    HUMAN HUMANS HOMO SAPIENS MAN PERSON HUMANO HUMANA HUMAIN HUMAINE UMANO UMANA MENSCH CZŁOWIEK INSAN ЧЕЛОВЕК
    ЛЮДИНА 人 人类 人類 ヒト 사람 인간 인체 إنسان بشر
    """.split()
)


def is_animal(species: str, codes: Iterable[str], breed: str) -> bool:
    """Whether species or breed say that the patient is no human.

    Parameters
    ----------
    species
        Patient Species Description (0010,2201).
    codes
        Code Values of Patient Species Code Sequence (0010,2202).
    breed
        Patient Breed Description (0010,2292) and the codes of (0010,2293): only animals have one.
    """
    human = {fold(word) for word in _HUMAN_WORDS}
    given = {code for code in codes if code}
    if given & _HUMAN_CODES or human & set(words(species)):
        return False
    silent = _terms("body_parts.tsv", described=False)
    said = (text for text in (species, breed) if silent.found(text)[0] != {"silent"})
    return bool(given) or any(words(text) for text in said)


# -- the view ------------------------------------------------------------------------------------------------

#: What joins the views that a series holds ("PA & LAT"), in a description of it.
_LIST: Final = re.compile(r"[&+/,;]|\b(?:AND|WITH|E|Y|ET|UND|I|VE|И|ТА|VIEWS?|[0-9] ?V)\b")


def view_named(text: str) -> View:
    """Return what view View Position names.

    AP and PA name the beam, any other word the patient's position: a view that names both is no frontal one.
    """
    meanings: set[str] = set()
    for reading in (text, text.replace("-", ""), *readings(text)):
        meanings |= _terms("views.tsv", described=False).found(reading.replace("/", " "))[0]
    if meanings & {"lateral", "position"}:
        return View.LATERAL
    return View.FRONTAL if "frontal" in meanings else View.UNKNOWN


def position_described(text: str) -> bool:
    """Whether a free text speaks of a position (decubitus, oblique, …), and lists no other view beside it."""
    meanings = _terms("views.tsv", described=True).found(text)[0]
    return "position" in meanings and not _LIST.search(fold(text))


def lateral_described(text: str) -> bool:
    """Whether a free text speaks of another view than a frontal one, and of no frontal one beside it."""
    meanings = _terms("views.tsv", described=True).found(text)[0]
    return bool(meanings & {"lateral", "position"}) and "frontal" not in meanings


def view_of_codes(codes: Iterable[str], meanings: Iterable[str] = ()) -> View:
    """Return what view codes name, those of modifiers included; a code of another view is not frontal.

    Parameters
    ----------
    codes
        Code Values.
    meanings
        Their Code Meanings, which speak where a code is in no table.
    """
    table = _codes("view_codes.tsv")
    given = [code for code in codes if code]
    known = {table[code] for code in given if code in table}
    if not all(code in table for code in given):
        named = {view_named(meaning) for meaning in meanings} - {View.UNKNOWN}
        known |= {view.value for view in named}
    if known & {"lateral", "position"}:
        return View.LATERAL
    return View.FRONTAL if "frontal" in known else View.UNKNOWN
