"""The doctor: says of each thing whether it is there, and what to fix."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backlog.settings import Settings
from producer.doctor import examine as doctor
from producer.doctor.check import Check
from producer.doctor.examine import examine
from tests.conftest import Cli, need
from tests.support.hospital import ScriptedHospital, make_known
from tests.support.servers import OrthancServer, RedisServer, free_port


@pytest.fixture
def seeded(model_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings under which everything is right, but that the weights mean nothing."""
    monkeypatch.setenv("CXR_WEIGHTS", "seeded")
    monkeypatch.setenv("CXR_CACHE", str(model_cache))
    return Settings(weights="seeded", cache=str(model_cache))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the model out: it takes seconds, and has tests of its own."""
    monkeypatch.setattr(doctor, "check_model", lambda _: Check("ok", "model", "not looked at"))


def found(settings: Settings, out: Path, pacs: str = "") -> dict[str, list[Check]]:
    by: dict[str, list[Check]] = {}
    for finding in examine(settings, out, pacs):
        by.setdefault(finding.what, []).append(finding)
    return by


def one(settings: Settings, out: Path, what: str, pacs: str = "") -> Check:
    return found(settings, out, pacs)[what][-1]


def test_every_trouble_says_what_to_fix(tmp_path: Path, seeded: Settings) -> None:
    findings = examine(replace(seeded, redis_url=f"redis://127.0.0.1:{free_port()}"), tmp_path)
    assert {"ok", "BAD"} <= {finding.state for finding in findings}
    for finding in findings:
        assert finding.text
        assert (finding.state == "ok") == (not finding.remedy), finding


def test_a_machine_on_which_everything_is_right(cli: Cli, tmp_path: Path) -> None:
    need("redis-server")
    done = cli("doctor", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BAD" not in done.stdout
    assert "SCORES MEAN NOTHING" in done.stdout  # seeded weights are worth a look
    assert "a private one is started" in done.stdout


def test_as_json_for_a_script(cli: Cli, tmp_path: Path) -> None:
    done = cli("doctor", "--json", "--pacs", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    (bad,) = [finding for finding in findings if finding["state"] == "BAD"]
    assert bad["what"] == "pacs"
    assert "is unavailable" in bad["text"]
    assert bad["remedy"] == "start it, or correct CXR_PACS_URL"


def test_missing_weights_are_bad_where_the_run_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    settings = Settings(cache=str(tmp_path / "cache"))
    finding = doctor.check_model(settings)
    assert (finding.state, finding.what) == ("BAD", "model")
    assert "doesn't hold the weights" in finding.text
    # With workers elsewhere, this machine may do without.
    assert doctor.check_model(replace(settings, redis_url="redis://elsewhere")).state == "look"
    assert not (tmp_path / "cache").exists()  # it looked, and downloaded nothing


def test_a_damaged_weights_file_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x" * 1000)
    monkeypatch.setenv("CXR_WEIGHTS", str(tmp_path / "weights.pt"))
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    assert doctor.check_model(Settings(weights=str(tmp_path / "weights.pt"))).state == "BAD"


def test_right_weights_are_named_by_their_hash(seeded: Settings) -> None:
    finding = doctor.check_model(seeded)
    assert finding.state == "look"
    assert "onnxruntime loads them" in finding.text


@pytest.mark.usefixtures("no_model")
def test_a_redis_is_looked_at_closely(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = Settings(redis_url=own_redis.url)
    findings = found(settings, tmp_path)
    assert [one.state for one in findings["redis"]] == ["ok"]
    assert (findings["workers"][0].state, findings["workers"][0].text) == (
        "look",
        "nobody listens to upload, inference, report",
    )
    assert "clock" not in findings

    own_redis.client.config_set("maxmemory-policy", "allkeys-lru")
    assert one(settings, tmp_path, "redis").remedy == "set it to noeviction"

    own_redis.client.config_set("maxmemory-policy", "noeviction")
    own_redis.client.config_set("maxmemory", str(int(own_redis.client.info()["used_memory"] * 1.1)))
    assert one(settings, tmp_path, "redis").remedy == "raise maxmemory"


@pytest.mark.usefixtures("no_model")
def test_a_redis_that_gives_no_channels_is_bad(own_redis: RedisServer, tmp_path: Path) -> None:
    """Found: a trace, out of Celery's question to the workers."""
    own_redis.client.acl_setuser("cxr", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
    finding = one(Settings(redis_url=f"redis://cxr:secret@127.0.0.1:{own_redis.port}/0"), tmp_path, "redis")
    assert finding.state == "BAD"
    assert "no channels" in finding.text
    assert "secret" not in str(finding)


@pytest.mark.usefixtures("no_model")
def test_a_redis_that_is_unavailable_old_or_locked(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = one(Settings(redis_url=f"redis://me:secret@127.0.0.1:{free_port()}"), tmp_path, "redis")
    assert away.state == "BAD"
    assert "secret" not in str(away)
    monkeypatch.setattr(doctor, "REDIS", (99, 0))
    assert one(Settings(redis_url=own_redis.url), tmp_path, "redis").remedy == "install 99.0 or newer"
    monkeypatch.setattr(doctor, "CLOCK", -1.0)
    assert one(Settings(redis_url=own_redis.url), tmp_path, "clock").remedy == "let NTP set both"
    own_redis.client.config_set("requirepass", "another")
    locked = one(Settings(redis_url=own_redis.url, redis_password="wrong"), tmp_path, "redis")
    assert locked.state == "BAD"
    assert "password" in locked.text
    broken = one(Settings(redis_url="nonsense"), tmp_path, "redis")
    assert "no address of a Redis" in broken.text


@pytest.mark.usefixtures("no_model")
def test_no_redis_server_to_start_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "redis_program", lambda: None)
    finding = one(Settings(), tmp_path, "redis")
    assert finding.state == "BAD"
    assert "cxr-backlog[embedded]" in finding.remedy


@pytest.mark.usefixtures("no_model")
def test_an_orthanc_that_searches_its_whole_index_is_named(
    orthanc: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: beside 100,000 images each report waited a tenth of a second for one question about its UID."""
    right = Settings(pacs_url=orthanc.url, pacs_username=orthanc.username, pacs_password=orthanc.password)
    monkeypatch.setattr("producer.doctor.pacs.SLOW_LOOK_UP_MS", -1.0)
    slow = [one for one in found(right, tmp_path)["pacs"] if "to find one UID" in one.text]
    assert [one.state for one in slow] == ["look"]
    assert "docs/scaling.md" in slow[0].remedy


@pytest.mark.usefixtures("no_model")
def test_an_orthanc_right_locked_and_unavailable(orthanc: OrthancServer, tmp_path: Path) -> None:
    right = Settings(pacs_url=orthanc.url, pacs_username=orthanc.username, pacs_password=orthanc.password)
    assert one(right, tmp_path, "pacs").state in ("ok", "look")
    assert orthanc.get("/statistics").json()["CountInstances"] == 0
    locked = one(replace(right, pacs_password="wrong"), tmp_path, "pacs")
    assert locked.state == "BAD"
    assert "refuses the user or the password" in locked.text
    away = one(Settings(), tmp_path, "pacs", f"http://127.0.0.1:{free_port()}")
    assert away.state == "BAD"
    open_secret = one(Settings(), tmp_path, "pacs", f"http://me:secret@127.0.0.1:{free_port()}")
    assert open_secret.state == "BAD"
    assert "secret" not in str(open_secret)


@pytest.mark.usefixtures("no_model")
def test_a_folder_as_pacs_and_the_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(Settings(), tmp_path, "pacs", str(tmp_path / "new" / "pacs")).state in ("ok", "look")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert "can't be written" in one(Settings(), tmp_path, "pacs", str(tmp_path / "file")).text
    monkeypatch.setattr("producer.doctor.check.MIN_ROOM", 1 << 60)
    assert one(Settings(), tmp_path, "disk").state == "BAD"
    monkeypatch.setattr("producer.doctor.check.MIN_ROOM", 0)
    monkeypatch.setattr("producer.doctor.check.LITTLE_ROOM", 1 << 60)
    assert one(Settings(), tmp_path, "disk").state == "look"


@pytest.mark.usefixtures("no_model")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(stat.S_IRUSR)
    assert one(Settings(), tmp_path / "locked" / "run", "disk").state == "BAD"


@pytest.mark.usefixtures("no_model")
def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"page": ("no-such-package",), "monitor": ("celery",)})
    finding = one(Settings(), tmp_path, "extras")
    assert (finding.text, finding.remedy) == (
        "not installed: page",
        "where they are wanted: cxr-backlog[page]",
    )
    monkeypatch.setattr(
        "producer.doctor.examine.metadata.requires", lambda _: ["no-such-package>=1", "celery"]
    )
    packages = one(Settings(), tmp_path, "packages")
    assert (packages.state, packages.text) == ("BAD", "missing: no-such-package")


@pytest.mark.usefixtures("no_model")
def test_each_modality_is_asked_for_a_sign_of_life(
    tmp_path: Path, dicom_orthanc: OrthancServer, hospital: ScriptedHospital
) -> None:
    make_known(dicom_orthanc, "nobody-there", "NOBODY", free_port())
    settings = Settings(pacs_username=dicom_orthanc.username, pacs_password=dicom_orthanc.password)
    by_name = {
        check.text.split()[0]: check for check in found(settings, tmp_path, dicom_orthanc.url)["modality"]
    }
    assert by_name["hospital"].state == "ok"
    assert by_name["the"].state == "look"
    assert "nobody-there" in by_name["the"].text
    hospital.rejects = True
    assert one(settings, tmp_path, "modality", dicom_orthanc.url).state == "look"
    checks = found(settings, tmp_path, dicom_orthanc.url)["modality"]
    assert [check.state for check in checks] == ["look"] * len(checks)
