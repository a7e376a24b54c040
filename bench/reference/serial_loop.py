"""The loop that a user would write by hand, with the libraries' own functions and default settings.

For each image of a zip: unzip it, upload it to Orthanc, download it again, read it with torchxrayvision, crop, resize,
score it with PyTorch in a batch of one, build a report with highdicom, upload that. This is what the system is measured
against.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from typing import Any

from backlog.model import DEFAULT_MODEL, INPUT_SIDE, MODEL_VERSION, PREPROCESSING


class Serial:
    """The loop's state: the model, loaded once, as a user would."""

    def __init__(self, url: str, username: str, password: str) -> None:
        import requests
        import torch
        import torchvision
        import torchxrayvision as xrv

        self.url = url
        self.session = requests.Session()
        self.session.auth = (username, password)
        torch.manual_seed(0)
        # The released architecture; its weights' values don't change the time.
        self.model = xrv.models.DenseNet(
            num_classes=18,
            in_channels=1,
            apply_sigmoid=True,
            growth_rate=32,
            block_config=(6, 12, 24, 16),
            num_init_features=64,
        )
        self.model.eval()
        self.transform = torchvision.transforms.Compose(
            [xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(INPUT_SIDE)]
        )
        self.stages: dict[str, float] = {}

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started
        return result

    def one(self, archive: zipfile.ZipFile, member: str) -> None:
        """Do all of it for one image."""
        content = self._timed("unzip", lambda: archive.read(member))
        stored = self._timed(
            "upload", lambda: self.session.post(f"{self.url}/instances", data=content).json()
        )
        file = self._timed(
            "download", lambda: self.session.get(f"{self.url}/instances/{stored['ID']}/file").content
        )
        image = self._timed("read and resize", lambda: self._read(file))
        scores = self._timed("forward", lambda: self._forward(image))
        report = self._timed("report", lambda: self._report(file, scores))
        self._timed("upload report", lambda: self.session.post(f"{self.url}/instances", data=report).json())

    def _read(self, file: bytes) -> Any:
        import torchxrayvision as xrv

        return self.transform(xrv.utils.read_xray_dcm(io.BytesIO(file))[None])

    def _forward(self, image: Any) -> list[float]:
        import torch

        with torch.no_grad():
            scores: list[float] = self.model(torch.from_numpy(image)[None])[0].tolist()
        return scores

    def _report(self, file: bytes, scores: list[float]) -> bytes:
        from datetime import UTC, datetime

        from backlog.dicom.file import DicomFile
        from bench.reference.highdicom_sr import encode
        from worker.sr.content import report_content
        from worker.sr.inputs import Model, Options
        from worker.sr.source_header import read_source

        # highdicom builds it, as the loop's author would have it do.
        model = Model(DEFAULT_MODEL, MODEL_VERSION, "0" * 64, PREPROCESSING)
        content = report_content(
            read_source(DicomFile(file)), scores, [], model=model, options=Options(), when=datetime.now(UTC)
        )
        return encode(content)
