"""The words and codes by which headers name the chest and a view.

BodyPartExamined and ViewPosition are typed by vendors and people, in English and in the language of the
house; the lists hold the standard's terms (PS3.16 annex L, PS3.3 C.8.1.1 and C.8.11.5) and the spellings of
Portuguese and Spanish archives.
"""

# a block of words reads better than a list of literals

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from enum import Enum
from typing import Final


class Body(Enum):
    """What a header says about the part of the body."""

    CHEST = "chest"
    OTHER = "other"
    UNKNOWN = "unknown"


class View(Enum):
    """What a header says about the direction of the view."""

    FRONTAL = "frontal"
    LATERAL = "lateral"  #: lateral, oblique or decubitus: not what the model was trained on
    UNKNOWN = "unknown"


_CHEST_WORDS: Final = frozenset(
    """
    CHEST CHESTABDOMEN CXR THORAX TORAX TORACE LUNG LUNGS LUNGE PULMAO PULMOES PULMON PULMONES PECHO
    HEART CORACAO CORAZON MEDIASTINUM
    """.split()
)
#: The bones of the chest: seen with another technique, so beside a word for the chest they leave the matter
#: open.
_BONE_WORDS: Final = frozenset(
    """
    SPINE TSPINE LSPINE CSPINE SSPINE COLUNA COLUMNA VERTEBRA RIB RIBS COSTELA COSTELAS COSTILLAS ARCOS
    STERNUM ESTERNO CLAVICLE CLAVICULA SCAPULA ESCAPULA
    """.split()
)
_OTHER_WORDS: Final = _BONE_WORDS | frozenset(
    """
    ABDOMEN ABDOMINAL KUB PELVIS PELVE BACIA HIP QUADRIL CADERA SKULL CRANIO CRANEO HEAD CABECA SINUS
    SEIOS FACE JAW MANDIBLE MANDIBULA NECK PESCOCO CERVICAL LUMBAR LOMBAR SHOULDER OMBRO HOMBRO ARM
    BRACO HUMERUS UMERO ELBOW COTOVELO CODO FOREARM ANTEBRACO WRIST PUNHO MUNECA HAND MAO MANO FINGER
    DEDO LEG PERNA PIERNA FEMUR THIGH COXA KNEE JOELHO RODILLA TIBIA ANKLE TORNOZELO TOBILLO FOOT
    CALCANEUS TOE EXTREMITY EXTREMIDADE BREAST MAMA TEETH COCCYX COCCIX
    """.split()
)
#: What a header says for body part when it says nothing.
_NO_PART: Final = frozenset(
    """
    UNKNOWN OTHER NONE NA N A UNSPECIFIED UNDEFINED DEFAULT ANY OUTRO OUTROS
    """.split()
)
#: Code Values of the chest in PS3.16 CID 4 and CID 4009: SNOMED CT, and SNOMED RT as older files have it.
_CHEST_CODES: Final = frozenset(
    {"816094009", "51185008", "43799004", "39607008", "302551006", "T-D3000", "T-D3200", "T-28000", "T-D3300"}
)

_FRONTAL_WORDS: Final = frozenset({"AP", "PA", "FRONTAL", "FRENTE", "ANTEROPOSTERIOR", "POSTEROANTERIOR"})
_LATERAL_WORDS: Final = frozenset(
    """
    LL RL LAT LATERAL LLAT RLAT PERFIL LATERALLEFT LATERALRIGHT LLD RLD DECUBITUS LLO RLO LAO RAO LPO
    RPO OBL OBLIQUE OBLIQUA OBLIQUO LORDOTIC APICOLORDOTIC
    """.split()
)
#: The same in free text, where the short forms mean other things ("LL": lower limb).
_LATERAL_DESCRIBED: Final = frozenset({"LAT", "LATERAL", "LLAT", "RLAT", "PERFIL"})
#: PS3.16 CID 4010: antero-posterior, postero-anterior, frontal.
_FRONTAL_CODES: Final = frozenset(
    {"399348003", "272479007", "399033003", "R-10206", "R-10214", "R-40888", "R-10202"}
)
#: PS3.16 CID 4010: lateral, left lateral, right lateral and the obliques.
_LATERAL_CODES: Final = frozenset(
    """
    399067008 399173006 399198007 R-102CD R-10236 R-10232 399182000 399184004 399236003 399135007
    399006002 399356000 399038007 399312000 399059000 399160007 R-102C1 R-10238 R-10234 R-10220 R-10212
    R-40985 R-10210 R-10208 R-10216 R-10204
    """.split()
)

_WORD: Final = re.compile(r"[A-Z]+")


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in capitals, without accents, digits and signs."""
    plain = unicodedata.normalize("NFKD", text[:256]).encode("ascii", "ignore").decode("ascii")
    return tuple(_WORD.findall(plain.upper()))


def body_examined(text: str, also: frozenset[str]) -> Body:
    """Return what part Body Part Examined names; a term that is neither the chest nor empty names another.

    Parameters
    ----------
    text
        The attribute's value.
    also
        More terms, in capitals, that mean the chest in this archive.
    """
    if text.strip().upper() in also:
        return Body.CHEST
    found = set(words(text))
    if found & _CHEST_WORDS:
        return Body.UNKNOWN if found & _BONE_WORDS else Body.CHEST
    return Body.OTHER if found - _NO_PART else Body.UNKNOWN


def body_described(text: str) -> Body:
    """Return what part a free text names: only known words count, and the chest wins."""
    found = set(words(text))
    if found & _CHEST_WORDS:
        return Body.UNKNOWN if found & _BONE_WORDS else Body.CHEST
    return Body.OTHER if found & _OTHER_WORDS else Body.UNKNOWN


def body_of_codes(codes: Iterable[str]) -> Body:
    """Return what part of the body the Code Values name. A code that is not the chest's counts as unknown."""
    return Body.CHEST if _CHEST_CODES.intersection(codes) else Body.UNKNOWN


def view_named(text: str) -> View:
    """Return what view a text names; one that names a frontal and another view names none."""
    found = set(words(text.replace("-", "")))
    frontal, lateral = bool(found & _FRONTAL_WORDS), bool(found & _LATERAL_WORDS)
    if lateral and not frontal:
        return View.LATERAL
    return View.FRONTAL if frontal and not lateral else View.UNKNOWN


def lateral_described(text: str) -> bool:
    """Whether a free text speaks of a lateral view and of no other."""
    found = set(words(text))
    return bool(found & _LATERAL_DESCRIBED) and not found & _FRONTAL_WORDS


def view_of_codes(codes: Iterable[str]) -> View:
    """Return what view the Code Values name."""
    given = frozenset(codes)
    if given & _LATERAL_CODES:
        return View.LATERAL
    return View.FRONTAL if given & _FRONTAL_CODES else View.UNKNOWN
