"""Clients: wrk for HTTP/1.1, h2load for HTTP/2 and for given rates, and a client of our own for handshakes."""

import json
import re
import socket
import ssl
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.l7.site import HOST, UPLOAD_BYTES, Site, path

#: In a mount namespace: the first argument is the file of names, the others are the command.
_WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}


class LoadFailed(Exception):
    """Some request was not answered as it should be: the figures would be of something else."""


@dataclass(frozen=True)
class Load:
    """What a client has seen."""

    units: int
    """Requests or handshakes."""
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def per_second(self) -> float:
        """Throughput."""
        return self.units / self.seconds


@dataclass(frozen=True)
class Clients:
    """Starts clients on their core."""

    site: Site
    core: int
    requests: Counter[str] = field(default_factory=Counter)
    """Answered so far, by address."""

    def wrk(
        self, address: str, kind: str, *, tls: bool = False, port: int = 0, connections: int = 64, seconds: float
    ) -> Load:
        """Requests over kept-alive connections, each as soon as the one before is answered."""
        # It resolves the name and sends what it resolved as the server name: a file of names for it alone.
        hosts = self.site.directory / f"hosts-{address}"
        hosts.write_text(f"{address} {HOST}\n")
        script = ["--script", str(self._upload_script())] if kind == "upload" else []
        url = f"{'https' if tls else 'http'}://{HOST}{f':{port}' if port else ''}{path(kind)}"
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s"]
        text = self._run(
            ["unshare", "--mount", "sh", "-c", _WITH_HOSTS, str(hosts), *command, *script, "--latency", url]
        )
        if "Non-2xx" in text or "Socket errors" in text:
            raise LoadFailed(text)
        count, taken = re.findall(r"(\d+) requests in ([\d.]+)s", text)[0]
        self.requests[address] += int(count)
        p50, p99 = (_wrk_time(text, percent) for percent in ("50%", "99%"))
        return Load(int(count), float(taken), p50, p99)

    def _upload_script(self) -> Path:
        script = self.site.directory / "upload.lua"
        script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {UPLOAD_BYTES})\n')
        return script

    def h2load(
        self, address: str, *, connections: int, streams: int, seconds: float, rate: float = 0.0, port: int = 443
    ) -> Load:
        """HTTP/2 over TLS; with a `rate` (requests a second in all) HTTP/1.1 without."""
        log = self.site.directory / "h2load.log"
        log.unlink(missing_ok=True)
        command = ["h2load", f"--clients={connections}", f"--max-concurrent-streams={streams}", f"--log-file={log}"]
        command += [f"--duration={seconds:g}", "--warm-up-time=0", f"--connect-to={address}:{port}"]
        if rate:
            command += ["--h1", f"--rps={max(1, round(rate / connections))}", f"http://{HOST}{path('small')}"]
        else:
            command.append(f"https://{HOST}{path('small')}")
        text = self._run(command)
        protocol = re.search(r"Application protocol: (\S+)", text)
        if protocol is None or protocol[1] != ("http/1.1" if rate else "h2"):
            raise LoadFailed(text)
        outcome = re.findall(r"(\d+) (succeeded|failed|errored|timeout)", text)
        if any(int(number) for number, word in outcome if word != "succeeded"):
            raise LoadFailed(text)
        times = []
        for line in log.read_text().splitlines():
            _at, status, took = line.split("\t")
            if status != "200":
                raise LoadFailed(f"h2load: {line}")
            times.append(float(took))
        self.requests[address] += len(times)
        p50, p99 = percentiles(times)
        return Load(len(times), seconds, p50, p99)

    def handshakes(self, address: str, *, resumed: bool, seconds: float) -> Load:
        """TLS 1.3 handshakes, eight at a time, each connection ended in order behind it."""
        authority = self.site.directory / "authority.pem"
        authority.write_text(self.site.certificate.chain_pem)
        command = [sys.executable, "-m", "tests.bench.l7.handshakes", f"--seconds={seconds:g}"]
        command += ["--resumed" if resumed else "--full", address, str(authority)]
        return Load(**json.loads(self._run(command)))

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            ["taskset", "--cpu-list", str(self.core), *command], capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            raise LoadFailed(f"{command[0]}: {done.stdout}{done.stderr}")
        return done.stdout


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th."""
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98]


def _wrk_time(text: str, percent: str) -> float:
    number, unit = re.findall(rf"^ +{percent} +([\d.]+)(us|ms|s)$", text, re.MULTILINE)[0]
    return float(number) * _UNITS_US[unit]


def told(address: str, port: int, context: ssl.SSLContext | None = None) -> str:
    """What a server was told of a request that comes this way.

    Raises:
        OSError: nobody answers, or not with 200.
    """
    with socket.create_connection((address, port), 5.0) as plain:
        sock = context.wrap_socket(plain, server_hostname=HOST) if context else plain
        with sock:
            sock.sendall(f"GET {path('told')} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    if not answer.startswith("HTTP/1.1 200"):
        raise OSError(answer)
    return answer.rpartition("\r\n\r\n")[2].strip()
