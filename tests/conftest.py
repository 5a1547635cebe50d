"""Every test runs without a network, on one thread of torch, and leaves nothing outside its own folder."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # foreign libraries answer at once instead of trying
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

ROOT = Path(__file__).resolve().parent.parent
_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


class NetworkUsed(AssertionError):
    """A test reached for the network."""


def _allowed(sock: socket.socket, address: object) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] in ("localhost", "")


def _guard(real):
    def connect(self, address):
        if not _allowed(self, address):
            raise NetworkUsed(f"this test reached for the network: {address!r}")
        return real(self, address)

    return connect


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    socket.socket.connect, socket.socket.connect_ex = _guard(_connect), _guard(_connect_ex)
    yield
    socket.socket.connect, socket.socket.connect_ex = _connect, _connect_ex


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)
    yield


@pytest.fixture(autouse=True)
def _same_start():
    """No test depends on the random numbers that the one before it left behind."""
    import torch

    torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the source checkout."""
    return ROOT
