"""Every stream has a size of its own, and all of them fit into the server that `fleet nats-config` configures."""

import re

import pytest

from contracts import streams
from contracts.streams import Sizes
from fleet.deploy import nats_config
from runtime.settings import BrokerSettings

DEFINITIONS = streams.definitions(Sizes())
TO_BE_BOUNDED = {streams.CANCELS}
GIB = 1024**3


def total(storage: str, sizes: Sizes) -> int:
    return sum(
        max(0, config.get("max_bytes", 0)) for config in streams.definitions(sizes) if config["storage"] == storage
    )


def server_limit(name: str) -> int:
    text = nats_config.server(listen="127.0.0.1:4222", store_dir="/data")
    found = re.search(rf"{name}: (\d+)GB", text)
    assert found
    return int(found[1]) * 1000**3


@pytest.mark.parametrize("config", DEFINITIONS, ids=lambda config: config["name"])
def test_a_stream_has_a_size_of_its_own(config: streams.Config) -> None:
    if config["name"] not in TO_BE_BOUNDED:
        assert config["max_bytes"] > 0
        assert config.get("max_msg_size", 0) > 0


def test_all_streams_fit_into_the_server_with_room_to_spare() -> None:
    assert total("file", Sizes()) <= server_limit("max_file_store") / 2
    assert total("memory", Sizes()) <= server_limit("max_memory_store") * 0.75


@pytest.mark.parametrize("gib", [14, 16, 60])
def test_all_streams_fit_into_the_disk_that_they_are_given(gib: int) -> None:
    sizes = BrokerSettings(llm_stream_disk_gb=gib).sizes()

    assert total("file", sizes) <= gib * GIB
    assert sizes.max_queue_bytes >= 2 * sizes.max_usage_bytes


def test_the_settings_are_those_of_a_fleet_without_settings() -> None:
    assert BrokerSettings().sizes() == Sizes()


@pytest.mark.parametrize("name", [streams.REQUESTS, streams.USAGE])
def test_what_must_not_be_lost_is_refused_and_never_dropped(name: str) -> None:
    (config,) = (config for config in DEFINITIONS if config["name"] == name)
    assert config["discard"] == "new"


def test_malformed_requests_of_one_tenant_take_a_part_of_the_dead_letters() -> None:
    (dead,) = (config for config in DEFINITIONS if config["name"] == streams.DEAD)
    pools = {
        consumer["durable_name"].split("_")[0] for stream, consumer in streams.consumers() if stream == streams.REQUESTS
    }

    assert len(pools) * dead["max_msgs_per_subject"] * streams.MALFORMED_KEPT_BYTES <= dead["max_bytes"] / 2
