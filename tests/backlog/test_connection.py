"""What a real Redis refuses, in our words: nothing that it can answer ends as a trace."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from backlog.broker.claims import Claims
from backlog.broker.connection import Broker
from backlog.broker.messages import Stage
from backlog.errors import ServiceUnavailable, StorageFull, UsageError
from tests.support.servers import RedisServer, free_port, wait_until


def configure(server: RedisServer, *words: str) -> None:
    subprocess.run(["redis-cli", "-p", str(server.port), *words], check=True, capture_output=True)


@pytest.fixture
def cluster(own_redis: RedisServer) -> RedisServer:
    own_redis.stop()
    # By default the bus is at the port plus 10000, which a free port may not allow.
    own_redis.options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    own_redis.start()
    port = str(own_redis.port)
    subprocess.run(
        ["redis-cli", "-p", port, "cluster", "addslotsrange", "0", "16383"], check=True, capture_output=True
    )
    wait_until(lambda: own_redis.client.info("cluster")["cluster_enabled"], what="the cluster is up")
    return own_redis


def test_a_plain_redis_passes_the_check(own_redis: RedisServer) -> None:
    Broker(own_redis.url).check()


def test_a_cluster_is_named(cluster: RedisServer) -> None:
    with pytest.raises(UsageError, match="is a cluster"):
        Broker(cluster.url).check()
    with pytest.raises(UsageError, match="is a cluster"):
        Claims(cluster.url).forget("run1", [1])  # two keys, of two slots


def test_a_user_without_channels_is_named(own_redis: RedisServer) -> None:
    """As Redis 7 makes every user (acl-pubsub-default): all keys, all commands, no channel."""
    configure(own_redis, "ACL", "SETUSER", "cxr", "on", ">secret", "~*", "resetchannels", "+@all")
    broker = Broker(f"redis://cxr:secret@127.0.0.1:{own_redis.port}/0")
    with pytest.raises(UsageError, match="no channels"):
        broker.check()
    configure(own_redis, "ACL", "SETUSER", "cxr", "&*")
    broker.check()


def test_a_user_who_may_not_ask_passes_the_check(own_redis: RedisServer) -> None:
    configure(own_redis, "ACL", "SETUSER", "cxr", "on", ">secret", "~*", "&*", "+@all", "-info")
    Broker(f"redis://cxr:secret@127.0.0.1:{own_redis.port}/0").check()


def test_a_command_that_is_not_allowed_is_named(own_redis: RedisServer) -> None:
    configure(own_redis, "ACL", "SETUSER", "cxr", "on", ">secret", "~*", "&*", "+@all", "-hset")
    with pytest.raises(UsageError, match="command to this user"):
        Claims(f"redis://cxr:secret@127.0.0.1:{own_redis.port}/0").set_state("run1", "running")


def no_replicas(server: RedisServer) -> None:
    server.client.config_set("min-replicas-to-write", 1)


def replica(server: RedisServer) -> None:
    configure(server, "REPLICAOF", "127.0.0.1", "1")


def full(server: RedisServer) -> None:
    server.client.config_set("maxmemory", 1)


@pytest.mark.parametrize("fault", [no_replicas, replica, full])
def test_a_redis_that_takes_no_writes_is_waited_for(
    own_redis: RedisServer, fault: Callable[[RedisServer], None]
) -> None:
    """By a command, in a pipeline, in a transaction and in a script: each words the answer otherwise."""
    fault(own_redis)
    claims = Claims(own_redis.url)
    for write in (
        lambda: claims.set_state("run1", "running"),
        lambda: claims.forget("run1", [1]),
        lambda: claims.restart("run1", 1, Stage.UPLOAD),
    ):
        with pytest.raises(ServiceUnavailable) as raised:
            write()
        assert isinstance(raised.value, StorageFull), raised.value
