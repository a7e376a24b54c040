"""What a run does with the modality that its images come from and its reports go to."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Final

from backlog.broker.messages import Stage
from backlog.errors import UsageError
from backlog.pacs.address import is_orthanc
from backlog.pacs.modality import PREFIX, Modality, modality_named
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.sources.base import Source


@dataclass(frozen=True)
class Delivery:
    """As the user asks for it."""

    to: str | None = (
        None  #: the modality that gets the reports; None: that which the images come from; empty: none
    )
    keep: bool = False  #: images that a modality sent stay in Orthanc

    def check(self, settings: Settings, pacs: str, source: Source) -> str:
        """Return which modality gets the reports, once it and the one that sends images have answered (C-ECHO).

        Parameters
        ----------
        settings
            How Orthanc is reached.
        pacs
            Its address.
        source
            The run's source.

        Raises
        ------
        UsageError
            Orthanc knows no such modality, or the PACS is no Orthanc.
        ServiceUnavailable
            One of them does not answer.
        """
        sends = source.spec.get("modality", "")
        if self.keep and source.first is not Stage.RETRIEVE:
            raise UsageError(
                f"--keep is for images that a modality sends ({PREFIX}NAME): others stay where they are"
            )
        to = sends if self.to is None else self.to
        if to:
            modality_named(f"{PREFIX}{to}")
        names = dict.fromkeys(name for name in (sends, to) if name)
        if names and not is_orthanc(pacs):
            raise UsageError("--deliver needs an Orthanc as the PACS: --pacs http://… or CXR_PACS_URL")
        for name in names:
            with closing(Orthanc.from_settings(settings, pacs)) as orthanc:
                modality = Modality(
                    orthanc, name, seconds=min(10.0, settings.pacs_seconds), method=settings.retrieve_method
                )
                modality.check()
                if name == sends:
                    modality.check_method()
        return to


#: What is done where the user says nothing.
AS_USUAL: Final = Delivery()
