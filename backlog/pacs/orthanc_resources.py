"""What only an Orthanc can be asked for: configuration, series and their tags, changes, labels of studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import Keeping
from backlog.pacs.configuration import OrthancConfiguration
from backlog.pacs.orthanc_find import Level, OrthancFind, OrthancResource
from backlog.pacs.orthanc_rest import OrthancRest, checked_id


@dataclass(frozen=True)
class Change:
    """One line of Orthanc's log of changes (Orthanc Book, "Tracking changes")."""

    seq: int
    kind: str = ""  #: ``NewInstance``, ``StableSeries``, …
    resource: str = ""
    date: str = ""  #: UTC, as ``20261126T041710``

    @classmethod
    def parse(cls, line: Mapping[str, object]) -> Change:
        """Return what a line of Orthanc's answer says."""
        kind, resource, date = (str(line.get(name, "")) for name in ("ChangeType", "ID", "Date"))
        return cls(int(str(line["Seq"])), kind, resource, date)


class OrthancResources(OrthancFind):
    """Orthanc beyond what every PACS can do.

    Parameters
    ----------
    rest
        Its connection.
    """

    def __init__(self, rest: OrthancRest) -> None:
        super().__init__(rest)
        self.rest = rest

    @property
    def url(self) -> str:
        """Its address."""
        return self.rest.url

    def series_ids(self, since: int, limit: int, query: Mapping[str, str]) -> list[str]:
        """Return the ids of series, in Orthanc's own order.

        Parameters
        ----------
        since
            Offset of the first series.
        limit
            Most series to return.
        query
            DICOM keywords and what they have to match; empty for everything, which Orthanc answers faster.
        """
        if not query:
            answer = self.rest.parsed(self.rest.call("GET", f"/series?since={since}&limit={limit}"))
        else:
            body = {"Level": "Series", "Query": dict(query), "Since": since, "Limit": limit}
            answer = self.rest.parsed(self.rest.call("POST", "/tools/find", json=body))
        if not isinstance(answer, list):
            raise self.rest.not_orthanc()
        return [str(one) for one in answer]

    def series(self, ids: Sequence[str]) -> list[OrthancResource]:
        """Return series with their main tags and instances, in one request for many; without those that are gone."""
        found = self.described([checked_id(one) for one in ids])
        return [found[one] for one in ids if one in found]

    def series_in(self, level: Level, resource: str) -> list[OrthancResource]:
        """Return all series of a patient or study. Rejected as ``not_in_pacs`` when it is gone."""
        path = f"{level.path}/{checked_id(resource)}/series"
        answer = self.rest.parsed(self.rest.call("GET", path))
        if not isinstance(answer, list):
            raise self.rest.not_orthanc()
        return list(answer)

    def configuration(self) -> OrthancConfiguration:
        """Return what its configuration does to what is stored, as far as it tells. Stores nothing."""
        system = self.rest.json("/system")
        try:
            # A body that is no DICOM file: an Orthanc that stores finds it malformed, one that doesn't refuses earlier.
            self.rest.call("POST", "/instances", data=b"")
            writable = True
        except InstanceRejected as rejected:
            writable = rejected.reason is Reason.NOT_DICOM
        except UsageError:
            writable = False  # it has let us read /system
        except ServiceUnavailable:
            writable = True  # an error without an Orthanc error body, or an outage: a run waits for its end
        return OrthancConfiguration.from_system(system, writable=writable)

    def keeping(self) -> Keeping:
        """Return whether it transcodes what it receives (IngestTranscoding); before 1.11.3 Orthanc doesn't tell."""
        told = self.rest.json("/system").get("IngestTranscoding")
        return Keeping.AS_SENT if told == "" else Keeping.ASK

    def transfer_syntax(self, instance: str) -> str:
        """Return the transfer syntax that an instance is kept in; empty where Orthanc has no such metadata of it."""
        path = f"/instances/{checked_id(instance)}/metadata/TransferSyntax"
        try:
            return self.rest.call("GET", path).text.strip()
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return ""  # or the instance is gone, as who fetches it will hear
            raise

    def last_change(self) -> int:
        """Return the number of the last change."""
        return int(self.rest.json("/changes?last")["Last"])

    def changes(self, since: int, limit: int = 1000) -> list[Change]:
        """Return the changes after a number, in their order. Those of what has been deleted since are left out."""
        answer = self.rest.json(f"/changes?since={since}&limit={limit}")
        return [Change.parse(line) for line in answer["Changes"]]

    def newest_change(self) -> Change:
        """Return the last line that the log has; of an empty one the number that Orthanc gave last, and no more."""
        answer = self.rest.json("/changes?last")
        return Change.parse(answer["Changes"][-1]) if answer["Changes"] else Change(int(answer["Last"]))

    def described(self, resources: Sequence[str]) -> dict[str, OrthancResource]:
        """Return what Orthanc says of some resources, by their ids; those that are gone are left out."""
        if not resources:
            return {}
        body = {"Resources": list(resources), "Short": False}
        answer = self.rest.parsed(self.rest.call("POST", "/tools/bulk-content", json=body))
        if not isinstance(answer, list):
            raise self.rest.not_orthanc()
        return {str(one["ID"]): one for one in answer}

    def new_patients(self, since: int) -> tuple[int, int]:
        """Return the number of the last change, and how many patients are new since one; deleted ones don't count."""
        new = 0
        while True:
            answer = self.rest.json(f"/changes?since={since}&limit=1000")
            new += sum(one.get("ChangeType") == "NewPatient" for one in answer["Changes"])
            since = max(since, int(answer["Last"]))
            if answer["Done"]:
                return since, new

    def count_series(self, query: Mapping[str, str]) -> int | None:
        """Return how many series match a query; None before Orthanc 1.12.5, which counts no matches."""
        try:
            body = {"Level": "Series", "Query": dict(query)}
            answer = self.rest.parsed(self.rest.call("POST", "/tools/count-resources", json=body))
        except InstanceRejected:
            return None  # it knows no such address
        return int(answer["Count"])

    def statistics(self) -> dict[str, int]:
        """Return how much it holds: ``CountPatients``, ``CountStudies``, ``CountSeries``, ``CountInstances``."""
        found = self.rest.json("/statistics")
        return {name: int(value) for name, value in found.items() if name.startswith("Count")}

    def study(self, study: str) -> OrthancResource:
        """Return one study with its main tags. Rejected as ``not_in_pacs`` when it is gone."""
        return self.resource(Level.STUDY, study)

    def has_labels(self) -> bool:
        """Return whether it and its database keep labels: since Orthanc 1.12 (Orthanc Book, "Labels")."""
        return self.rest.json("/system").get("HasLabels") is True

    def labels(self, study: str) -> list[str]:
        """Return a study's labels. Rejected as ``not_in_pacs`` when the study is gone."""
        answer = self.rest.parsed(self.rest.call("GET", f"/studies/{checked_id(study)}/labels"))
        if not isinstance(answer, list):
            raise self.rest.not_orthanc()
        return [str(label) for label in answer]

    def put_label(self, study: str, label: str) -> None:
        """Put a label (letters, digits, ``-`` and ``_``) on a study; one that is there stays."""
        self.rest.call("PUT", f"/studies/{checked_id(study)}/labels/{label}")

    def remove_label(self, study: str, label: str) -> None:
        """Take a label off a study; one that is not there is no error."""
        self.rest.call("DELETE", f"/studies/{checked_id(study)}/labels/{label}")

    def tags_of_instances(self, series: str) -> dict[str, dict[str, object]]:
        """Return the headers of a series' instances, as keywords and text, by their ids."""
        answer = self.rest.json(f"/series/{checked_id(series)}/instances-tags?simplify")
        return {str(instance): tags for instance, tags in answer.items() if isinstance(tags, dict)}

    def shared_tags(self, series: str) -> dict[str, object]:
        """Return what the headers of all instances of a series have in common, as keywords and text."""
        return self.rest.json(f"/series/{checked_id(series)}/shared-tags?simplify")
