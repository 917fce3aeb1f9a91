"""The lab's service behind its UDP VIPs, on each proxy host: answers every datagram with itself and the host's name.

Run as a file and not as a module: with the standard library alone it starts in 50 ms and takes 10 MB.
"""

import argparse
import select
import socket
from typing import Final

#: ip(7), ipv6(7): a socket may have an address that comes to the host later; the redirector puts the VIPs on `lo`.
IP_FREEBIND: Final = 15
IPV6_FREEBIND: Final = 78

#: socket(7); not in the `socket` module. Beyond the limit for everybody, as root may.
SO_RCVBUFFORCE: Final = 33

#: Octets that the kernel holds for us while the machine does something else.
RECEIVE_BUFFER: Final = 4 * 1024 * 1024

#: Longest datagram that is answered whole.
MAX_OCTETS: Final = 65535


def listen(address: str, port: int) -> socket.socket:
    """Bound to the VIP, so that answers have it as their source."""
    is_ipv6 = ":" in address
    server = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    if is_ipv6:
        server.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        server.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    server.bind((address, port))
    server.setblocking(False)
    return server


def answer(server: socket.socket, name: bytes) -> None:
    """All that has come in."""
    while True:
        try:
            datagram, client = server.recvfrom(MAX_OCTETS)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error about an earlier answer: its client is gone
            continue
        try:
            server.sendto(datagram + name, client)
        except OSError:  # no route to this client any more, or no room: a datagram may be lost
            continue


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("addresses", nargs="+")
    options = parser.parse_args()
    poll = select.poll()
    servers = {}
    for address in options.addresses:
        server = listen(address, options.port)
        servers[server.fileno()] = server
        poll.register(server, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            answer(servers[descriptor], options.name.encode())


if __name__ == "__main__":
    main()
