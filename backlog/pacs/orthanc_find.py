"""Finding resources of an Orthanc by one identifier, many at a time, and all of them.

A query's answer may be limited (LimitFindResults, LimitFindInstances) without a word. An answer that is shorter than
one that was given before is not; for any other, each value is looked up by itself, which nothing limits. Accession
numbers can't be looked up so: each is a query of its own, whose answer has to be shorter than another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, TypedDict, cast

from backlog.errors import InstanceRejected, UsageError
from backlog.pacs.orthanc_rest import OrthancRest, checked_id

#: Values of one query: a few kilobytes.
_FOUND_AT_ONCE: Final = 100

#: Resources that are asked for to see whether so many are given: more than any one value has.
_PROBE: Final = 500


class Level(Enum):
    """What is looked for, as Orthanc calls it."""

    PATIENT = "Patient"
    STUDY = "Study"
    SERIES = "Series"
    INSTANCE = "Instance"

    @property
    def path(self) -> str:
        """Where such resources are."""
        return {"Patient": "/patients", "Study": "/studies", "Series": "/series", "Instance": "/instances"}[
            self.value
        ]


class OrthancResource(TypedDict, total=False):
    """What Orthanc says of a patient, study, series or instance; other versions say more or less."""

    ID: str
    Type: str
    MainDicomTags: dict[str, str]
    LastUpdate: str
    ParentStudy: str
    ParentSeries: str
    Instances: list[str]


class OrthancFind:
    """Queries by an identifier.

    Parameters
    ----------
    rest
        The Orthanc's connection.
    """

    def __init__(self, rest: OrthancRest) -> None:
        self._rest = rest
        #: To a query at each level; a limit, if there is one, is not below it.
        self._longest_answer = dict.fromkeys(Level, 0)
        self._probed: set[Level] = set()

    def find_all(self, level: Level, keyword: str, values: Sequence[str]) -> list[OrthancResource]:
        """Return every resource whose identifier is one of the values, with its main tags.

        Parameters
        ----------
        level
            What is looked for.
        keyword
            An identifier of that level that Orthanc indexes: its UID, PatientID, AccessionNumber.
        values
            Without wildcards and backslashes.
        """
        found: list[OrthancResource] = []
        waiting = list(values)
        while waiting:
            longest = self._longest_answer[level]
            # The first is a little longer, so that the answers after it are shorter.
            count = _FOUND_AT_ONCE + 4 * (longest <= _FOUND_AT_ONCE + 1)
            some, waiting = waiting[:count], waiting[count:]
            answer = self._query(level, {keyword: "\\".join(some)})
            if answer and len(answer) >= longest - 1:  # Orthanc 1.10 gives one more than its limit
                self._longest_answer[level] = max(longest, len(answer))
                answer = [one for value in some for one in self._each(level, keyword, value)]
            wanted = set(some)
            # Orthanc compares identifiers without case and accents.
            found += [one for one in answer if _tag(one, keyword) in wanted]
        return found

    def lookup(self, level: Level, value: str) -> list[str]:
        """Return the ids of all resources of a level that have a value as one of their identifiers."""
        found = self._rest.parsed(self._rest.call("POST", "/tools/lookup", data=value.encode()))
        return [str(one["ID"]) for one in found if one.get("Type") == level.value]

    def resource(self, level: Level, identifier: str) -> OrthancResource:
        """Return one resource with its main tags. Rejected as ``not_in_pacs`` when it is gone."""
        return cast("OrthancResource", self._rest.json(f"{level.path}/{checked_id(identifier)}"))

    def _query(self, level: Level, query: dict[str, str]) -> list[OrthancResource]:
        body = {"Level": level.value, "Query": query, "Expand": True}
        return list(self._rest.parsed(self._rest.call("POST", "/tools/find", json=body)))

    def _each(self, level: Level, keyword: str, value: str) -> list[OrthancResource]:
        """Return every resource of one value.

        Raises
        ------
        UsageError
            The Orthanc limits its answers to so few that nobody can tell whether these are all.
        """
        if keyword == "AccessionNumber":
            answer = self._query(level, {keyword: value})
            if answer and len(answer) >= self._longest(level) - 1:
                raise UsageError(
                    f"this Orthanc gives no more than {len(answer)} answers to a query: raise LimitFindResults in its"
                    " configuration, then go on with resume"
                )
            return answer
        resources: list[OrthancResource] = []
        for one in self.lookup(level, value):
            try:
                resources.append(self.resource(level, one))
            except InstanceRejected:
                continue  # deleted meanwhile
        return resources

    def _longest(self, level: Level) -> int:
        """Return how long an answer can be, as far as that is known: at least, or longer than any there can be."""
        if level not in self._probed:
            answer = self._rest.parsed(
                self._rest.call(
                    "POST",
                    "/tools/find",
                    json={"Level": level.value, "Query": {}, "Limit": _PROBE, "Expand": False},
                )
            )
            there = int(self._rest.json("/statistics")[f"Count{level.path[1:].capitalize()}"])
            longest = len(answer) if len(answer) < min(there, _PROBE) else _PROBE + 2
            self._longest_answer[level] = max(longest, self._longest_answer[level])
            self._probed.add(level)
        return self._longest_answer[level]


def _tag(resource: OrthancResource, keyword: str) -> str:
    return str(dict(resource.get("MainDicomTags", {})).get(keyword, "")).strip()
