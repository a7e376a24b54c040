"""What a DICOMweb server answers to a store (PS3.18 10.5.3), instance by instance, and what it means for a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, StorageFull, UsageError
from backlog.outcomes import Reason

#: A data set in DICOM JSON (PS3.18 annex F), by tags: nothing about what a server puts there is sure.
DicomJson = Mapping[str, object]

#: Attributes of the answer (PS3.18 table 10.5.3-1), by their tags in DICOM JSON.
_FAILED: Final = "00081198"
_STORED: Final = "00081199"
_SOP_INSTANCE_UID: Final = "00081155"
_FAILURE_REASON: Final = "00081197"
_WARNING_REASON: Final = "00081196"

#: Failure reasons (PS3.18 table I.2-2; PS3.4 table B.2-1; PS3.7 annex C).
_PROCESSING_FAILURE: Final = 0x0110
DUPLICATE: Final = 0x0111
_NOT_AUTHORIZED: Final = 0x0124
_NO_SUCH_SOP_CLASS: Final = frozenset({0x0118, 0x0122, 0xC122})


@dataclass(frozen=True)
class StoreAnswer:
    """What is said of one instance."""

    stored: bool
    changed: bool = False  #: stored, with attributes coerced or left out
    failure: int | None = None  #: Failure Reason, where one is given

    @property
    def duplicate(self) -> bool:
        """Whether it may be refused because an instance of this UID is there: servers say so in different ways."""
        return not self.stored and self.failure in (None, DUPLICATE, _PROCESSING_FAILURE)


def value(item: object, tag: str) -> Any:
    """Return the first value of an attribute in DICOM JSON (PS3.18 annex F); None where it has none.

    Parameters
    ----------
    item
        A data set.
    tag
        The attribute's tag. Where its value is no list, as the standard has it, it is that value.
    """
    if not isinstance(item, Mapping):
        return None
    try:
        found = item[tag]["Value"]
        return found if isinstance(found, (str, int, float)) else found[0]
    except (KeyError, IndexError, TypeError):
        return None


def store_answer(body: object, sop_instance_uid: str) -> StoreAnswer | None:
    """Return what an answer says of one instance; None where it doesn't name it.

    Parameters
    ----------
    body
        The answer, as JSON.
    sop_instance_uid
        Of the instance, which was sent alone: a failure without a UID is its own.
    """
    if not isinstance(body, dict):
        return None
    for failed in _items(body, _FAILED):
        if value(failed, _SOP_INSTANCE_UID) in (None, sop_instance_uid):
            return StoreAnswer(stored=False, failure=_number(value(failed, _FAILURE_REASON)))
    for stored in _items(body, _STORED):
        if value(stored, _SOP_INSTANCE_UID) == sop_instance_uid:
            return StoreAnswer(stored=True, changed=value(stored, _WARNING_REASON) is not None)
    return None


def failure(url: str, reason: int | None) -> BacklogError:
    """Return the error that a Failure Reason means.

    Parameters
    ----------
    url
        The PACS's address.
    reason
        The Failure Reason; None where none was given.
    """
    if reason is None:
        return ServiceUnavailable(f"the PACS at {url} did not store an instance, and gives no reason")
    said = f"failure reason {reason:04X}H"
    if 0xA700 <= reason <= 0xA7FF:  # Refused: Out of Resources
        return StorageFull(f"the PACS at {url} is out of resources ({said})")
    if reason == _NOT_AUTHORIZED:
        return UsageError(f"the PACS at {url} does not let us store ({said}): see its access rules")
    if reason in _NO_SUCH_SOP_CLASS:
        return InstanceRejected(
            Reason.REFUSED, f"the PACS takes no objects of this kind or encoding ({said})"
        )
    if 0xA900 <= reason <= 0xA9FF or 0xC000 <= reason <= 0xCFFF:  # PS3.4 table B.2-1
        return InstanceRejected(Reason.REFUSED, f"the PACS can't read it, or finds it wrong ({said})")
    # 0110H (Processing failure) and what no table knows may be the instance's fault or a bad moment's: whether others
    # are stored tells.
    return ServiceUnavailable(f"the PACS at {url} did not store an instance ({said})")


def _items(body: DicomJson, tag: str) -> list[DicomJson]:
    found = body.get(tag)
    items = found.get("Value") if isinstance(found, dict) else None
    return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []


def _number(given: Any) -> int | None:
    try:
        return int(given)
    except (TypeError, ValueError):
        return None
