"""How a worker in a container is named."""

from __future__ import annotations

import pytest

from worker.container import container_name, replica_name


@pytest.mark.parametrize(
    ("container", "host", "wanted"),
    [
        ("cxr-backlog-worker-inference-2.cxr-backlog_inner", "stack", "inference-2"),
        ("my-site-2-worker-inference-gpu-14.my-site-2_inner", "reading-room", "inference-14"),
        ("old_worker-inference_3.old_inner", "stack", "inference-3"),
        ("worker-inference-6d9f8c7b5d-x2x9z", "worker-inference-6d9f8c7b5d-x2x9z", "inference"),
    ],
)
def test_a_worker_has_its_containers_number(container: str, host: str, wanted: str) -> None:
    assert replica_name("inference", container, host) == wanted


def test_workers_of_unknown_containers_differ() -> None:
    first, second = (replica_name("upload", "", "stack") for _ in range(2))
    assert first != second
    assert first.startswith("upload-")


def test_an_address_without_a_name_is_no_error() -> None:
    assert container_name("192.0.2.77") == ""
