"""The files that a comparison of scores leaves in a folder: JSON for programs, the page, what was not joined."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from backlog.environment import interface_language
from backlog.output_file import OutputFile, begins_with, unwritable
from producer.spreadsheet import cell
from producer.validation.join import Joined
from producer.validation.metrics import as_json
from producer.validation.no_points import has_point
from producer.validation.operating_points import ProposedPoint, document
from producer.validation.page import About, is_own_page, write_validation
from producer.validation.validate import FindingFigures

_OWN_JSON = begins_with(b'{\n  "format": "cxr-backlog')
_OWN_LIST = begins_with(b"key,reason\r\n")


class ResultFolder:
    """The folder that a command's results go to.

    Parameters
    ----------
    folder
        Made where it is not there.
    inputs
        Files that are read for the results, and never overwritten.

    Raises
    ------
    UsageError, StorageFull
        It can't be made: there, or now.
    """

    def __init__(self, folder: Path, inputs: tuple[Path, ...]) -> None:
        self.folder, self._inputs = folder, inputs
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error)(f"{folder}: can't be made ({error.strerror})") from error

    def file(self, name: str, is_own: Callable[[IO[bytes]], bool], *, private: bool = False) -> OutputFile:
        """Return a file of the folder that is about to be written.

        Parameters
        ----------
        name
            Its name in the folder.
        is_own
            Whether a file that is there is an earlier output of ours; any other stays, and is refused.
        private
            For the user's own eyes alone: no one else may read it.
        """
        output = OutputFile(self.folder / name, inputs=self._inputs, private=private)
        output.check(is_own)
        return output

    def write(
        self, name: str, text: str, is_own: Callable[[IO[bytes]], bool] = _OWN_JSON, *, private: bool = False
    ) -> None:
        """Write a file of the folder.

        Parameters
        ----------
        name, is_own, private
            See :meth:`file`.
        text
            All of its content.
        """
        with self.file(name, is_own, private=private).open_text(is_own) as file:
            file.write(text)


def write_validation_files(
    files: ResultFolder, about: About, joined: Joined, found: list[FindingFigures]
) -> None:
    """Write validation.json, unjoined.csv and validation.html.

    Parameters
    ----------
    files
        Where to.
    about
        What was compared, and how.
    joined
        The run's scores beside the labels.
    found
        The figures of each finding.
    """
    content = {"format": "cxr-backlog validation 1"} | as_json(about)
    content["created"] = datetime.now(UTC).replace(microsecond=0).isoformat()
    content["joined"] = {
        "unit": joined.unit,
        "units": len(joined.keys),
        "images": joined.images,
        "reported": joined.reported,
        "rows": joined.rows,
        "without_label": joined.without_label,
        "clustered_by": joined.clustered_by,
        "unjoined": joined.reasons,
    }
    content["findings"] = as_json(found)
    files.write("validation.json", json.dumps(content, indent=2) + "\n")
    lines = io.StringIO()
    csv.writer(lines).writerows([("key", "reason"), *((cell(key), why) for key, why in joined.unjoined)])
    files.write(
        "unjoined.csv", lines.getvalue(), _OWN_LIST, private=True
    )  # a table's keys may be patients' numbers
    write_validation(files.file("validation.html", is_own_page), about, joined, found, interface_language())


def write_operating_points(files: ResultFolder, about: About, found: list[FindingFigures]) -> int:
    """Write operating-points.json; return for how many findings, and write nothing where there is none.

    Parameters
    ----------
    files
        Where to.
    about
        What was compared, and the rule of the proposal.
    found
        The figures of each finding, with the proposed point.
    """
    points: dict[str, ProposedPoint] = {
        one.label: {
            "threshold": one.proposed.threshold,
            "positives": one.positives,
            "negatives": one.negatives,
            "sensitivity": one.proposed.sensitivity.value,
            "specificity": one.proposed.specificity.value,
        }
        for one in found
        if one.proposed is not None and has_point(one)
    }
    if not points:
        return 0
    text = document(
        model=about.model,
        weights_sha256=about.weights_sha256,
        weights_meaningful=about.meaningful,
        preprocessing=about.preprocessing,
        rule=about.rule,
        created=datetime.now(UTC).replace(microsecond=0).isoformat(),
        source=f"run {about.run}, labels {about.labels}",
        points=points,
    )
    files.write("operating-points.json", text)
    return len(points)
