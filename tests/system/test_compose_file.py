"""docker-compose.yml and what the application reads: every setting reaches every service that runs its code."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
import yaml

from backlog.environment import from_environment
from backlog.settings import Settings, variable
from producer.page.beside import FILES
from tests.support.servers import ROOT

#: Services that run the application's code, but Flower, which needs to know the broker alone.
SERVICES = (
    "worker-retrieve",
    "worker-upload",
    "worker-inference",
    "worker-inference-gpu",
    "worker-report",
    "runner",
    "producer",
)


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_reaches_the_service(compose: Any, service: str) -> None:
    passed = {name for name in compose[service]["environment"] if name.startswith("CXR_")}
    assert {variable(one) for one in fields(Settings)} <= passed
    others = passed - {variable(one) for one in fields(Settings)}
    # Set to nothing: the producer is given all of .env, and these are not its business.
    assert others <= {"CXR_FLOWER_PASSWORD", "CXR_GRAFANA_PASSWORD"}
    assert not any(compose[service]["environment"][name] for name in others)


def test_a_setting_of_env_is_passed_on_under_its_own_name(compose: Any) -> None:
    passed = [
        (service, name, used)
        for service in SERVICES
        for name, value in compose[service]["environment"].items()
        for used in re.findall(r"\$\{(CXR_\w+)", str(value or ""))
    ]
    assert len(passed) > len(SERVICES)
    assert [one for one in passed if one[2] != one[1] != "CXR_PACS_LINK"] == []


def test_what_compose_itself_reads_is_no_unknown_setting() -> None:
    """The producer is given all of .env: a name that only compose knows must not be refused there."""
    files = [
        ROOT / "docker-compose.yml",
        *(ROOT / "deploy").glob("*.yml"),
        ROOT / "deploy/monitoring/compose.yml",
    ]
    used = {name for file in files for name in re.findall(r"\$\{(CXR_\w+)", file.read_text())}
    written = set(re.findall(r"^(CXR_\w+)=", (ROOT / "deploy/env.sh").read_text(), re.MULTILINE))
    own = {variable(one) for one in fields(Settings)}
    from_environment(dict.fromkeys((used | written) - own, "1"))


def test_services_come_back_after_the_engine_was_killed(compose: Any) -> None:
    for name, service in compose.items():
        assert service["restart"] == ("no" if name in ("volumes", "model", "producer") else "always"), name


def test_the_producer_starts_no_service(compose: Any) -> None:
    assert "depends_on" not in compose["producer"]


def test_the_number_of_workers_stands_in_env(compose: Any) -> None:
    assert compose["worker-inference"]["scale"] == "${CXR_INFERENCE_WORKERS:-1}"
    assert "CXR_INFERENCE_WORKERS=" in (ROOT / "deploy/env.sh").read_text()


def test_numbers_and_charts_are_behind_a_log_in() -> None:
    """Prometheus asks for none, and is reached through Grafana alone; Grafana asks."""
    monitoring = yaml.safe_load((ROOT / "deploy/monitoring/compose.yml").read_text())["services"]
    assert "ports" not in monitoring["prometheus"]
    assert monitoring["prometheus"]["networks"] == ["inner"]
    (port,) = monitoring["grafana"]["ports"]
    assert port.startswith("${CXR_BIND:-127.0.0.1}:")
    assert monitoring["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert monitoring["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith(
        "${CXR_GRAFANA_PASSWORD:?"
    )
    proxy = (ROOT / "deploy/viewer/nginx.conf").read_text()
    assert "prometheus" not in proxy
    assert re.findall(r"location[^{]*\{[^}]*auth_basic off", proxy) == [
        "location = /healthz { auth_basic off"
    ]


def test_the_viewer_serves_the_pages_of_a_run_and_no_more() -> None:
    proxy = (ROOT / "deploy/viewer/nginx.conf").read_text()
    (served,) = re.findall(r'location ~ "(\^/runs/[^"]+)"', proxy)
    pattern = re.compile(served.replace("(?<", "(?P<"))
    for run in ("run", "site/run"):
        for name in ("summary.html", *FILES):
            assert pattern.fullmatch(f"/runs/{run}/{name}"), name
    for path in (
        *(
            "ledger.sqlite",
            "validation/unjoined.csv",
            "validation/validation.json",
            "validation/operating-points.json",
        ),
        *("comparison/comparison.json", "scores-names.csv", "validation/", "a/b/c/summary.html"),
        *("site/run/validation/comparison.html", "validation/validation/validation.html.bak"),
    ):
        assert not pattern.fullmatch(f"/runs/run/{path}"), path


#: An image with all three parts of its version, before whatever its tag says besides.
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?$")


def base_images() -> dict[str, set[str]]:
    """Return the images that others made, by the file that names them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.y*ml")):
        named = re.findall(r"\$\{CXR_\w+_IMAGE:-([^}]+)\}|image: ([\w./-]+:[\w.-]+)", path.read_text())
        images = {a or b for a, b in named if not b.startswith("cxr-backlog/")}
        found |= {str(path): images} if images else {}
    for path in (*ROOT.glob("*/Dockerfile"), *(ROOT / "deploy").rglob("Dockerfile")):
        found[str(path)] = set(re.findall(r"^ARG PYTHON=(\S+)$", path.read_text(), re.MULTILINE))
        froms = set(re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE))
        stages = set(re.findall(r"^FROM \S+ AS (\S+)", path.read_text(), re.MULTILINE))
        assert froms <= stages | {"${PYTHON}"}, path  # no other base comes in unseen
    return found


def test_base_images_are_pinned_to_the_patch_version() -> None:
    found = base_images()
    assert len(found) >= 8
    for path, images in found.items():
        assert images, path
        for image in images:
            assert PINNED.match(image), (path, image)


def test_one_version_of_each_base_image_is_named() -> None:
    images = set().union(*base_images().values())
    names = [image.partition(":")[0] for image in images]
    assert len(names) == len(set(names)), images


def test_the_example_of_env_names_what_compose_reads() -> None:
    text = (ROOT / "deploy/env.example").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    for name, value in re.findall(r"^#?(CXR_\w+)=(.*)$", text, re.MULTILINE):
        assert f"${{{name}" in compose or f"{name}:" in compose or name == "CXR_GRAFANA_PASSWORD", name
        for default in re.findall(rf"\$\{{{name}:-([^}}$]+)\}}", compose):
            assert value in (default, "10001"), (name, value, default)
    written = re.findall(r"^(CXR_\w+)=", (ROOT / "deploy/env.sh").read_text(), re.MULTILINE)
    assert re.findall(r"^(CXR_\w+)=", text, re.MULTILINE) == written


@pytest.mark.parametrize("service", ["producer", "runner"])
def test_the_inbox_is_mounted_at_its_own_path_and_read_only(compose: Any, service: str) -> None:
    """A list of `--only` and a file of operating points, beside the archive; the run's own copy lies in out."""
    mounted = {volume["target"]: volume.get("read_only", False) for volume in compose[service]["volumes"]}
    assert mounted == {"/inbox": True, "/out": False}
