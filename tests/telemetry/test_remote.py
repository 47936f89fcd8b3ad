"""Another machine's steps in terms of this machine's clock, over a real server that can be any clock and any process."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from telemetry.meter import MeterUnavailable
from telemetry.monitor import Steps
from telemetry.recording import as_json
from telemetry.remote import DRIFT, ClockOffset, RemoteMeter
from telemetry.snapshot import Reading, Source
from tests.telemetry.libraries import Clock
from tests.telemetry.pages import pages


@dataclass
class Node:
    """A machine whose clock is so far ahead of ours, with the steps that it tells."""

    ahead_s: float = 5000.0
    instance: str = "one"
    steps: list[Reading] = field(default_factory=list)

    def step(self, energy_uj: int, at_s: float, device: str = "gpu", **also: int) -> None:
        """At an instant of our clock."""
        self.steps.append(Reading(device, energy_uj, at_s + self.ahead_s, Source.COUNTER, edge_s=0.01, **also))

    def __call__(self, path: str) -> bytes:
        new, self.steps = self.steps, []
        told = {"instance": self.instance, "cursor": f"{self.instance}:7", "readings": [as_json(step) for step in new]}
        return json.dumps(told | {"now_s": time.monotonic() + self.ahead_s}).encode()


def test_steps_in_our_time_with_the_doubt_of_the_round_trip() -> None:
    node = Node()
    with pages(node) as server, closing(RemoteMeter(server.url)) as meter:
        at_s = time.monotonic()
        node.step(100, at_s - 0.3)
        node.step(250, at_s - 0.2)
        first, second = meter.read()
        meter.read()
    assert (first.energy_uj, second.energy_uj, first.source) == (100, 250, Source.COUNTER)
    for step, true_s in ((first, at_s - 0.3), (second, at_s - 0.2)):
        assert step.edge_s is not None
        assert abs(step.at_s - true_s) <= step.edge_s - 0.01 + 1e-6
    assert server.paths == ["/readings", "/readings?since=one%3A7"]


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 0.5), st.floats(0.0, 2.0)), min_size=1, max_size=100),
    st.floats(-DRIFT, DRIFT),
)
def test_the_offset_is_within_its_doubt(ahead_s: float, trips: list[tuple[float, float, float]], drift: float) -> None:
    """However slow and lopsided the network is, and while the clocks drift."""
    offset, now_s = ClockOffset(), 0.0
    for way_there_s, way_back_s, pause_s in trips:
        read_s = now_s + way_there_s
        offset.add(read_s * (1 + drift) + ahead_s, now_s, read_s + way_back_s)
        now_s = read_s + way_back_s + pause_s
        told_s, doubt_s = offset.at(now_s)
        assert abs(told_s - (now_s - (now_s * (1 + drift) + ahead_s))) <= doubt_s + 1e-6


def test_the_quickest_round_trip_is_the_one_that_is_believed() -> None:
    offset = ClockOffset()
    offset.add(50.0, 0.0, 1.0)
    offset.add(51.001, 1.0, 1.002)
    offset.add(52.9, 2.0, 3.0)
    assert offset.at(3.0) == (pytest.approx(-50.0), pytest.approx(0.001, abs=0.001))


def test_a_node_that_counts_anew_does_not_go_back(caplog: pytest.LogCaptureFixture) -> None:
    node, told = Node(), []
    with pages(node) as server, closing(RemoteMeter(server.url)) as meter:
        start_s = time.monotonic() - 10
        node.step(100, start_s, integral_uj=90)
        node.step(300, start_s + 1, integral_uj=280)
        told += meter.read()
        node.instance, node.ahead_s = "two", -77.0  # a reboot: its clock is another one as well
        node.step(5, start_s + 3, integral_uj=0)
        node.step(25, start_s + 4, integral_uj=18)
        told += meter.read()
    assert [r.energy_uj for r in told] == [100, 300, 300, 320]
    assert [r.integral_uj for r in told] == [90, 280, 280, 298]
    assert [r.at_s - start_s for r in told] == [pytest.approx(n, abs=0.1) for n in (0, 1, 3, 4)]
    assert "was started again" in caplog.text
    assert "gpu counts anew" in caplog.text


def test_a_node_that_only_starts_again_loses_no_joule() -> None:
    node, steps, found = Node(), Steps(10.0), []
    with pages(node) as server, closing(RemoteMeter(server.url)) as meter:
        start_s = time.monotonic() - 10
        node.step(100, start_s)
        found += [i for reading in meter.read() for i in steps.observe([reading])]
        node.instance = "two"
        node.step(900, start_s + 5)
        found += [i for reading in meter.read() for i in steps.observe([reading])]
    assert [i.energy_uj for i in found] == [800]


def test_instants_stay_in_order_and_out_of_the_future() -> None:
    node = Node()
    with pages(node) as server, closing(RemoteMeter(server.url)) as meter:
        now_s = time.monotonic()
        node.step(1, now_s - 1)
        node.step(2, now_s - 1.5)
        node.step(3, now_s + 500)
        told = meter.read()
        assert told[-1].at_s <= time.monotonic()
    assert all(before.at_s <= after.at_s for before, after in pairwise(told))


def test_only_the_devices_that_are_asked_for() -> None:
    node = Node()
    with pages(node) as server, closing(RemoteMeter(server.url, ["b"])) as meter:
        for device in ("a", "b", "c"):
            node.step(1, time.monotonic(), device)
        assert [r.device for r in meter.read()] == ["b"]
        assert meter.read() == []


def test_a_key_and_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    node = Node()
    with pages(node, tls=tls) as server:
        server.key = "secret"
        node.step(1, time.monotonic())
        assert len(read_once(server.url, key="secret", ca_file=tmp_path / "ca.pem")) == 1
        with pytest.raises(MeterUnavailable, match=r"wants another key \(status 401\)"):
            read_once(server.url, key="other", ca_file=tmp_path / "ca.pem")
        with pytest.raises(MeterUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            read_once(server.url, key="secret")
        with pytest.raises(MeterUnavailable, match=r"the certificates in .*none\.pem cannot be read"):
            read_once(server.url, ca_file=tmp_path / "none.pem")


def read_once(url: str, *, key: str = "", ca_file: Path | None = None) -> Sequence[Reading]:
    with closing(RemoteMeter(url, key=key, ca_file=ca_file)) as meter:
        return meter.read()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"", "no `paceline meter` at http.*: status 404"),
        (200, b"<html>", "no `paceline meter` at http.*: it answers b'<html>'"),
        (200, b"[]", "tells what this version does not know"),
        (200, b'{"instance": "a", "cursor": "a:1", "now_s": 1, "readings": [{"device": "a"}]}', "does not know: KeyError"),
    ],
)
def test_what_is_no_meter_is_told(status: int, body: bytes, said: str) -> None:
    with pages(body) as server:
        server.status = status
        with pytest.raises(MeterUnavailable, match=said):
            read_once(server.url)


def test_the_clock_that_is_handed_in_is_the_one_that_is_used() -> None:
    node, clock = Node(), Clock(3.0)
    with pages(node) as server, closing(RemoteMeter(server.url, clock=clock)) as meter:
        node.step(1, time.monotonic())
        assert meter.read()[0].at_s == pytest.approx(3.0, abs=0.5)
