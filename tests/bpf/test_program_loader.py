"""Programs are compiled and loaded by a process that ends; what goes wrong there is told here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4 import program_loader
from l4.pins import prepare_pins
from l4.program_error import ProgramError
from l4.program_loader import LoadedProgram
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

FRAME = bytes(64)

OWN_MAP = """
BPF_TABLE("array", __u32, __u32, mine, 4);
BPF_TABLE("array", __u32, __u32, some_prototype, 4);
int edge_test(struct xdp_md *ctx)
{
	__u32 key = 1, *value = mine.lookup(&key);
	return value && *value == AWAITED ? XDP_PASS : XDP_DROP;
}
"""
NO_BOUNDS_CHECK = "int edge_test(struct xdp_md *ctx) { return *(char *)(long)ctx->data; }"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which programs are compiled."""
    monkeypatch.setattr(program_loader, "SOURCES", tmp_path)
    yield tmp_path


def load(sources: Path, bpffs: Path, text: str) -> LoadedProgram:
    (sources / "test.c").write_text(text)
    return LoadedProgram("test.c", "edge_test", prepare_pins(bpffs, "redirector"), {"AWAITED": 77})


def test_a_program_and_the_maps_that_are_its_own_are_handed_over(sources: Path, fresh_bpffs: Path) -> None:
    program = load(sources, fresh_bpffs, OWN_MAP)
    assert run(program.descriptor, FRAME).verdict is Verdict.DROP
    with program.open_map("mine") as mine:
        mine.update((1).to_bytes(4, "little"), (77).to_bytes(4, "little"))
    assert run(program.descriptor, FRAME).verdict is Verdict.PASS
    with pytest.raises(KeyError):
        program.open_map("some_prototype")
    program.close()
    assert program.descriptor == -1


def test_descriptors_are_closed_when_nobody_holds_the_program(sources: Path, fresh_bpffs: Path) -> None:
    load(sources, fresh_bpffs, OWN_MAP)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(3):
        load(sources, fresh_bpffs, OWN_MAP)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_what_compiler_and_verifier_say_can_be_read(
    sources: Path, fresh_bpffs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProgramError, match=r"cannot compile test.c or make its maps .*words stand above"):
        load(sources, fresh_bpffs, "int edge_test(struct xdp_md *ctx) { return undeclared; }")
    assert "undeclared identifier 'undeclared'" in capfd.readouterr().err
    with pytest.raises(ProgramError, match=r"the kernel refused test.c .*; its verifier's words stand above"):
        load(sources, fresh_bpffs, NO_BOUNDS_CHECK)
    assert "invalid access to packet" in capfd.readouterr().err


def test_a_compiler_that_dies_or_takes_too_long_is_told(
    sources: Path, fresh_bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        with pytest.raises(ProgramError, match=r"compiles test.c ended with status 1 and no answer"):
            load(sources, fresh_bpffs, OWN_MAP)
    monkeypatch.setattr(program_loader, "LOAD_TIMEOUT_S", 0.001)
    with pytest.raises(ProgramError, match=r"test\.c could not be compiled and loaded in 0 s"):
        load(sources, fresh_bpffs, OWN_MAP)


def test_a_process_that_loads_programs_keeps_no_compiler(fresh_bpffs: Path) -> None:
    script = (
        "import pathlib, sys; from l4.balancer_program import BalancerProgram;"
        "program = BalancerProgram(pathlib.Path(sys.argv[1]), rows=997); print(open('/proc/self/maps').read())"
    )
    mapped = subprocess.run(
        [sys.executable, "-c", script, fresh_bpffs], check=True, capture_output=True, text=True
    ).stdout
    assert "libc.so" in mapped
    assert "bcc" not in mapped
    assert "LLVM" not in mapped
