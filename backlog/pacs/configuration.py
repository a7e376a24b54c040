"""What an Orthanc's configuration does to what is stored in it, as far as it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Transfer syntaxes of lossy compression (PS3.5 annex A.4), which give an image another SOP Instance UID.
_LOSSY: Final = frozenset(
    {
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.93",
    }
)
#: Those whose encoders keep all bits of a word, also above Bits Stored: native ones, deflated, RLE, JPEG lossless.
#: DCMTK's JPEG-LS drops them, so that an image which uses more bits than it declares wraps around (docs/decisions.md).
_WHOLE_WORDS: Final = frozenset(
    {
        "",
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.5",
    }
)


@dataclass(frozen=True)
class OrthancConfiguration:
    """Settings of an Orthanc that decide whether a run loses or changes something there."""

    recycles: str | None  #: what makes it delete the oldest patients; empty: nothing; None: it doesn't tell
    writable: bool
    transcoding: str  #: the transfer syntax that it gives what it receives; empty: none, or it doesn't tell

    @property
    def lossy(self) -> bool:
        """Whether it compresses received images with loss."""
        return self.transcoding in _LOSSY

    @classmethod
    def from_system(cls, system: Mapping[str, Any], *, writable: bool) -> OrthancConfiguration:
        """Read the answer to ``/system``; before Orthanc 1.11.3 it names none of these settings.

        Parameters
        ----------
        system
            The JSON object that ``/system`` answers.
        writable
            Whether it takes a store, as asked.
        """
        recycles = None
        if "MaximumPatientCount" in system or "MaximumStorageSize" in system:
            limits = {
                name: int(system.get(name) or 0) for name in ("MaximumPatientCount", "MaximumStorageSize")
            }
            recycles = ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit)
            if system.get("MaximumStorageMode", "Recycle") != "Recycle":
                recycles = ""
        return cls(
            recycles,
            writable=writable and not system.get("ReadOnly", False),
            transcoding=str(system.get("IngestTranscoding", "")),
        )

    def problems(self, *, stores_images: bool, retrieves: bool, allow_recycling: bool) -> list[str]:
        """Return why a run should not begin, in sentences; none where it may.

        Parameters
        ----------
        stores_images
            Whether the run stores images too, and not only reports.
        retrieves
            Whether another PACS sends it these images, so that no file of ours tells what became of their pixels.
        allow_recycling
            The user wants the loss.
        """
        found = []
        if not self.writable:
            found.append("it stores nothing (ReadOnly in its configuration, or a proxy's rule)")
        if self.recycles and not allow_recycling:
            found.append(
                f"it deletes its oldest patients to make room ({self.recycles}, MaximumStorageMode Recycle): set the"
                " limit to 0 or the mode to Reject, or set CXR_ALLOW_RECYCLING where the loss is wanted"
            )
        if self.lossy and stores_images:
            found.append(
                "it compresses what it receives with loss (IngestTranscoding), which makes another image of it at"
                " each delivery: set a lossless transfer syntax or none"
            )
        elif self.transcoding not in _WHOLE_WORDS and retrieves:
            found.append(
                f"it transcodes what it receives (IngestTranscoding {self.transcoding}), which damages images that use"
                " more bits than they declare, and retrieved images can't be compared with their source: set it to"
                " none, or to JPEG lossless (1.2.840.10008.1.2.4.70)"
            )
        return found
