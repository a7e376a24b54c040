"""The manifests of deploy/kubernetes, as kubectl builds them: fit their schemas, name what is there, run hardened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

from backlog.environment import from_environment
from tests.support.manifests import (
    KUSTOMIZATIONS,
    Built,
    Manifest,
    build,
    environment,
    kustomize,
    need_kubectl,
    of,
    pods,
    prepare,
)
from tests.support.servers import ROOT

#: The oldest release whose API has all that is used (a job's podReplacementPolicy), and the newest that is known.
RELEASES = ("1.29", kubernetes_validate.latest_version())

#: Who may open a connection to whom, and nobody else.
TALKS = {
    *(
        (client, "redis", 6379)
        for client in ("worker-retrieve", "worker-upload", "worker-inference", "worker-report")
    ),
    *(
        (client, "orthanc", 8042)
        for client in ("worker-retrieve", "worker-upload", "worker-inference", "worker-report")
    ),
    ("producer", "redis", 6379),
    ("producer", "orthanc", 8042),
    ("flower", "redis", 6379),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_kubectl()
    return prepare(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def built(site: Path) -> Built:
    return build(site)


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_fits_its_schema(built: Built, release: str) -> None:
    seen = 0
    for name, manifests in built.items():
        for one in manifests:
            if not one["apiVersion"].startswith("keda.sh"):
                kubernetes_validate.validate(one, release, strict=True)
                seen += 1
            assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "cxr-backlog", (name, one)
    assert seen > 50


def test_the_schemas_refuse_a_misspelt_field(built: Built) -> None:
    """The test before says nothing where this one fails."""
    job = of(built["run"], "Job")["producer-first"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**job, "spec": {**job["spec"], "backofLimit": 1}}, RELEASES[1], strict=True
        )


def test_without_passwords_nothing_is_built(site: Path) -> None:
    (site / ".env").rename(site / "put away")
    try:
        for name in KUSTOMIZATIONS:
            done = kustomize(site, name)
            assert done.returncode != 0
            assert not done.stdout
            assert ".env" in done.stderr
    finally:
        (site / "put away").rename(site / ".env")


def test_passwords_stand_in_secrets_alone(site: Path, built: Built) -> None:
    given = dict(line.split("=", 1) for line in (site / ".env").read_text().splitlines() if "=" in line[:40])
    secrets = {text for name, text in given.items() if name.endswith("_PASSWORD")}
    assert len(secrets) == 4
    for manifests in built.values():
        text = yaml.safe_dump([one for one in manifests if one["kind"] != "Secret"])
        assert not [secret for secret in secrets if secret in text]
    for _, name, spec in pods(built):
        written = [
            key for key, one in environment(spec).items() if key.endswith("PASSWORD") and "value" in one
        ]
        assert not written, name


def test_what_a_pod_refers_to_is_there(built: Built) -> None:
    claims = of(built["base"], "PersistentVolumeClaim")
    for source, name, spec in pods(built):
        manifests = built[source]
        secrets, maps = of(manifests, "Secret"), of(manifests, "ConfigMap")
        for one in environment(spec).values():
            if ref := one.get("valueFrom", {}).get("secretKeyRef"):
                assert ref["key"] in secrets[ref["name"]]["data"], name
        for one in spec["containers"][0].get("envFrom", []):
            assert one["configMapRef"]["name"] in maps, name
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims, name
            if files := volume.get("configMap"):
                assert files["name"] in maps, name
        mounts = spec["containers"][0]["volumeMounts"]
        assert {mount["name"] for mount in mounts} == set(volumes), name
        for mount in mounts:
            if "subPath" in mount:
                assert mount["subPath"] in maps[volumes[mount["name"]]["configMap"]["name"]]["data"]


def test_a_read_only_claim_is_mounted_read_only(built: Built) -> None:
    seen = set()
    for _, name, spec in pods(built):
        for volume in spec["volumes"]:
            if volume.get("persistentVolumeClaim", {}).get("readOnly"):
                mounts = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
                assert all(mount["readOnly"] for mount in mounts), name
                seen.add((name, volume["name"]))
    assert {("worker-upload", "inbox"), ("producer", "inbox"), ("worker-inference", "models")} <= seen


def test_images_are_those_of_compose(built: Built, compose: Any) -> None:
    # A cluster has its own ingress in front: the viewer's door is the stack's.
    images = {one["image"] for name, one in compose.items() if name != "viewer"}
    known = {re.sub(r"\$\{\w+:-(.+)\}", r"\1", image) for image in images}
    used = {spec["containers"][0]["image"] for _, _, spec in pods(built)}
    assert used == known


def test_programs_are_started_as_in_compose(built: Built, compose: Any) -> None:
    base = {name: spec["containers"][0] for source, name, spec in pods(built) if source == "base"}
    flags = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", flag) for flag in compose["flower"]["command"]]
    assert base["flower"]["args"] == flags
    for name in ("redis", "orthanc"):
        own = {key for key in environment({"containers": [base[name]]}) if key.startswith("CXR_")}
        assert own == {key for key in compose[name]["environment"] if key.startswith("CXR_")}


def test_every_setting_is_known_and_well_formed(built: Built) -> None:
    """Read by the application itself, which refuses what it doesn't know."""
    for source, name, spec in pods(built):
        if not (name.startswith("worker") or name in ("producer", "flower")):
            continue
        shared = of(built[source], "ConfigMap")[spec["containers"][0]["envFrom"][0]["configMapRef"]["name"]][
            "data"
        ]
        own = {key: str(one.get("value", "1")) for key, one in environment(spec).items()}
        settings = from_environment({**shared, **own})
        assert settings.redis_url == "redis://cxr@redis:6379/0"
        assert settings.pacs_url == "http://orthanc:8042"
        assert settings.redis_password


def test_pods_run_hardened(built: Built) -> None:
    names = set()
    for _, name, spec in pods(built):
        names.add(name)
        (container,) = spec["containers"]
        pod, own = spec["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] == pod["fsGroup"] == 10001, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"]["cpu"], name
        assert not spec.get("hostNetwork"), name
    assert len(names) == 9


def test_services_are_probed(built: Built) -> None:
    for _, name, spec in pods(built):
        if name not in ("producer", "files"):
            assert {"readinessProbe", "livenessProbe"} <= set(spec["containers"][0]), name


def test_selectors_match_their_pods(built: Built) -> None:
    workloads = of(built["base"], "Deployment", "StatefulSet")
    for name, one in workloads.items():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items(), name
    for name, service in of(built["base"], "Service").items():
        labels = workloads[name]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        ports = {
            port["containerPort"]
            for port in workloads[name]["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        assert {port["port"] for port in service["spec"]["ports"]} == ports


def _selected(selector: Manifest, name: str) -> bool:
    wanted = selector.get("matchLabels", {})
    listed = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in listed)
    return all(text == name for text in wanted.values()) and all(name in one["values"] for one in listed)


def test_only_those_talk_who_have_to(built: Built) -> None:
    """What goes out of one pod has to be let into the other; anything else is dropped."""
    policies = [one["spec"] for one in of(built["base"], "NetworkPolicy").values()]
    assert any(p["podSelector"] == {} and set(p["policyTypes"]) == {"Ingress", "Egress"} for p in policies)
    names = {name for _, name, _ in pods(built)}

    def ways(kind: str, side: str) -> set[tuple[str, str, int]]:
        return {
            (own, other, port["port"])
            for policy in policies
            for own in names
            if _selected(policy["podSelector"], own)
            for rule in policy.get(kind, [])
            for peer in rule[side]
            if "podSelector" in peer
            for other in names
            if _selected(peer["podSelector"], other)
            for port in rule["ports"]
        }

    out = ways("egress", "to")
    let_in = {(other, own, port) for own, other, port in ways("ingress", "from")}
    assert out == let_in == TALKS
