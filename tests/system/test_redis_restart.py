"""The stack's Redis, with the user and the rights that deploy/redis.sh gives, keeps its claims over a restart."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from backlog.broker.claim import Claim
from backlog.broker.claims import Claims
from backlog.broker.messages import Stage
from tests.support.servers import ROOT, free_port, wait_until

PASSWORD = "only-for-this-test"


@dataclass
class StackRedis:
    """A redis-server that deploy/redis.sh starts, as the container does."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://cxr:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        conf = self.folder / "redis.conf"
        text = (ROOT / "deploy" / "redis.conf").read_text()
        for ours, here in (("port 6379", f"port {self.port}"), ("dir /data", f"dir {self.folder}")):
            assert ours in text
            text = text.replace(ours, here)
        conf.write_text(text.replace("bind *", "bind 127.0.0.1"))
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", str(ROOT / "deploy" / "redis.sh"), str(conf)],
                env={**os.environ, "CXR_REDIS_PASSWORD": PASSWORD},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_until(self.answers, what="redis-server answers")

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def has_written(self) -> bool:
        """Whether the append-only file holds the last key: everysec may keep a second of writes in memory."""
        return any(b"two" in path.read_bytes() for path in (self.folder / "appendonlydir").iterdir())

    def stop(self, how: int) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(20)
        self.process = None


@pytest.fixture
def stack_redis(tmp_path: Path) -> Iterator[StackRedis]:
    server = StackRedis(tmp_path, free_port())
    server.start()
    yield server
    if server.process is not None:
        server.stop(signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_claims_are_there_after_a_restart(stack_redis: StackRedis, how: int) -> None:
    claims = Claims(stack_redis.url, lease_seconds=60)
    claims.set_state("run", "running")
    for chunk in range(3):
        assert isinstance(claims.claim("run", chunk, Stage.UPLOAD, Stage.UPLOAD), Claim)
    before = claims.progress("run", range(3))
    with redis.Redis.from_url(stack_redis.url) as client, client.pipeline(transaction=True) as pipe:
        pipe.set("one", 1).set("two", 2).execute()
        size = client.dbsize()
    claims.broker.close()
    wait_until(stack_redis.has_written, what="the last transaction is in the file")
    stack_redis.stop(how)
    stack_redis.start()
    log = (stack_redis.folder / "redis.log").read_text()
    assert "NOPERM" not in log
    assert claims.progress("run", range(3)) == before
    assert all(one.leased for one in before.values())
    with redis.Redis.from_url(stack_redis.url, decode_responses=True) as client:
        assert client.mget("one", "two") == ["1", "2"]
        assert client.dbsize() == size
    claims.broker.close()


def test_without_a_password_redis_answers_noauth(stack_redis: StackRedis) -> None:
    with redis.Redis(port=stack_redis.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
