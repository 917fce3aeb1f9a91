"""A private network namespace and bpffs for kernel tests, and programs loaded once for each module."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4 import attachment
from l4.attachment import XdpMode
from l4.balancer_program import BalancerProgram
from l4.headers import kernel_headers
from l4.redirector_program import RedirectorProgram
from tests.bench.sandbox import own_network
from tests.bpf.packets import CLIENT_MAC, NODE_MAC
from tests.bpf.veth import CLIENT, NODE

ROWS = 997
PASS_EVERYTHING = b"int edge_test_pass(struct xdp_md *ctx) { return XDP_PASS; }"


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture(scope="module")
def network_namespace() -> Iterator[None]:
    """This thread is in a network namespace of its own, with its loopback up."""
    with own_network():
        yield


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this module's own."""
    directory = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.fixture(scope="module")
def balancer(bpffs: Path) -> BalancerProgram:
    """The loaded balancer, with small tables."""
    return BalancerProgram(bpffs, rows=ROWS)


@pytest.fixture(scope="module")
def redirector(bpffs: Path, network_namespace: None) -> RedirectorProgram:
    """The loaded redirector."""
    return RedirectorProgram(bpffs)


@pytest.fixture
def fresh_bpffs(bpffs: Path) -> Iterator[Path]:
    """A bpffs without pins of ours, before and after."""
    yield bpffs
    BalancerProgram.remove_pins(bpffs)
    RedirectorProgram.remove_pins(bpffs)


@pytest.fixture
def pair(network_namespace: None) -> Iterator[None]:
    """Two ends of one cable; the client's has the XDP program that a veth end facing XDP_TX needs."""
    from bcc import BPF

    ip(f"link add {CLIENT} address {CLIENT_MAC} type veth peer name {NODE} address {NODE_MAC}")
    for end in (CLIENT, NODE):
        subprocess.run(["ethtool", "-K", end, "tx", "off", "rx", "off"], check=True, stdout=subprocess.DEVNULL)
        ip(f"link set {end} up")
    with kernel_headers():
        passing = BPF(text=PASS_EVERYTHING)
    attachment.attach(CLIENT, passing.load_func(b"edge_test_pass", BPF.XDP).fd, "edge_test_pass", XdpMode.NATIVE)
    yield
    ip(f"link del {CLIENT}")
    passing.cleanup()
