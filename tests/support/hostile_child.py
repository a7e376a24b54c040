"""One file through header, eligibility and pixels: ``python -m tests.support.hostile_child FILE``, within limits.

Prints how the file ends as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

#: What one file may take.
MEMORY = 2 << 30


def ended(file: bytes) -> dict[str, object]:
    """Return how a file ends."""
    from backlog.dicom.eligibility import Rules, rejection_reason
    from backlog.dicom.file import DicomFile
    from backlog.dicom.header import eligibility_attributes
    from backlog.errors import InstanceRejected
    from worker.pixels.preprocess import model_input

    try:
        read = DicomFile(file)
        reason = rejection_reason(eligibility_attributes(read.header), Rules())
        if reason is not None:
            return {"outcome": reason.outcome.value, "reason": reason.value}
        _ = read.identity
        seen = model_input(read)
    except InstanceRejected as rejected:
        outcome = rejected.reason.outcome.value
        return {"outcome": outcome, "reason": rejected.reason.value, "detail": rejected.detail}
    return {"outcome": "reported", "flags": sorted(flag.value for flag in seen.flags)}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(ended(Path(sys.argv[1]).read_bytes())))
