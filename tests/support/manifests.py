"""The manifests of deploy/kubernetes, as kubectl builds them with fresh passwords."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import ROOT

Manifest = dict[str, Any]
Built = dict[str, list[Manifest]]

#: What is built from kustomizations, and what is applied as it is.
KUSTOMIZATIONS = ("base", "overlays/keda", "overlays/gpu", "overlays/shared-storage", "run")
PLAIN = "files.yaml"


def need_kubectl() -> None:
    """Skip where there is no kubectl that knows components; Debian 12 has none that does, so CI can't install one."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    said = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True
    ).stdout
    minor = int("".join(c for c in json.loads(said)["clientVersion"]["minor"] if c.isdecimal()))
    if minor < 27:
        pytest.skip(f"kubectl 1.{minor} is too old for these manifests: 1.27 knows them")


def prepare(folder: Path) -> Path:
    """Copy what the manifests are built from, and make passwords."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copy(ROOT / "orthanc.json", folder)
    subprocess.run(["sh", "deploy/env.sh"], cwd=folder, check=True, capture_output=True)
    overlay = folder / "deploy/kubernetes/overlays/shared-storage"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        "resources: [../../base]\ncomponents: [../../components/shared-storage]\n"
    )
    return folder


def kustomize(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone"]
    return subprocess.run([*command, f"deploy/kubernetes/{name}"], cwd=folder, capture_output=True, text=True)


def build(folder: Path) -> Built:
    manifests = {}
    for name in KUSTOMIZATIONS:
        done = kustomize(folder, name)
        assert done.returncode == 0, done.stderr
        manifests[name] = list(yaml.safe_load_all(done.stdout))
    manifests[PLAIN] = list(yaml.safe_load_all((folder / "deploy/kubernetes" / PLAIN).read_text()))
    return manifests


def of(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    """Return the manifests of some kinds, by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] in kinds}


def pods(built: Built) -> Iterator[tuple[str, str, Manifest]]:
    """Yield what each pod is built by, what its label calls it, and its spec."""
    for name, manifests in built.items():
        for one in manifests:
            if one["kind"] == "Pod":
                yield name, one["metadata"]["name"], one["spec"]
            elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
                labels = one["spec"]["template"]["metadata"]["labels"]
                yield name, labels["app.kubernetes.io/name"], one["spec"]["template"]["spec"]


def environment(spec: Manifest) -> dict[str, Any]:
    """Return a pod's own variables by name."""
    return {one["name"]: one for one in spec["containers"][0].get("env", [])}
