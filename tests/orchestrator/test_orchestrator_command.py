"""`edge-orchestrator` as a process: what it makes, what it prints, how it ends."""

import json
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = run("init", "--data", f"{tmp_path}/data", "--operator", f"{tmp_path}/operator", "--address", "127.0.0.1")
    assert made.returncode == 0, made.stderr
    return tmp_path / "data"


def test_init_makes_private_files_and_the_operators_context(data: Path) -> None:
    operator = data.parent / "operator"
    for directory in (data, operator):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for file in directory.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    context = json.loads((operator / "context.json").read_text())
    assert context == {"endpoints": ["https://127.0.0.1:7443"], "network_namespace": None}
    again = run("init", "--data", str(data), "--operator", str(operator), "--address", "127.0.0.1")
    assert again.returncode == 1
    assert "holds a fleet already" in again.stderr


def test_operator_makes_credentials_of_the_same_authority_anew(data: Path) -> None:
    first = (data.parent / "operator" / "operator.pem").read_text()
    for directory in (data.parent / "operator", data.parent / "second"):
        made = run("operator", "--data", str(data), "--operator", str(directory), "alice")
        assert made.returncode == 0, made.stderr
        assert stat.S_IMODE((directory / "operator.key").stat().st_mode) == 0o600
        certificate = x509.load_pem_x509_certificate((directory / "operator.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["edgefleet://operator/alice"]
        authority = x509.load_pem_x509_certificate((data / "ca.pem").read_bytes())
        certificate.verify_directly_issued_by(authority)
    assert (data.parent / "operator" / "operator.pem").read_text() != first
    assert run("operator", "--data", str(data), "--operator", str(data.parent / "third"), "Al ice").returncode == 2


def test_token_prints_one_line(data: Path) -> None:
    printed = run("token", "--data", str(data), "proxy-1", "proxy")
    assert printed.returncode == 0
    assert printed.stdout.startswith("ef1.")
    assert printed.stdout.count("\n") == 1
    assert run("token", "--data", str(data), "Proxy_1", "proxy").returncode == 2
    assert run("token", "--data", str(data), "proxy-1", "cook").returncode == 2


def test_run_serves_one_per_directory_and_ends_cleanly(data: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.service", "run", "--data", str(data), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listening on https://127.0.0.1:" in process.stderr.readline()
        second = run("run", "--data", str(data), "--listen", "127.0.0.1:0")
        assert second.returncode == 1
        assert "another orchestrator runs on this directory" in second.stderr
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(timeout=10) == 0
    assert "the data paths run on" in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:port", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_said(data: Path, listen: str) -> None:
    ended = run("run", "--data", str(data), "--listen", listen)
    assert ended.returncode == 1
    assert "not ADDRESS:PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_said(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run("run", "--data", str(data), "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert ended.returncode == 1
    assert "cannot listen on 127.0.0.1" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_init_it_says_what_to_do(tmp_path: Path) -> None:
    ended = run("run", "--data", f"{tmp_path}/none", "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert "edge-orchestrator init" in ended.stderr
