"""The suite cannot reach the network, and says so when a test tries."""

from __future__ import annotations

import socket

import pytest


def test_the_guard_stops_a_connection():
    with socket.socket() as s, pytest.raises(AssertionError, match="reached for the network"):
        s.settimeout(1)
        s.connect(("192.0.2.1", 80))  # an address that is reserved for examples
    with pytest.raises(AssertionError, match="reached for the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_the_machine_itself_may_be_asked():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
