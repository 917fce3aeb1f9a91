"""The HTTP/1 codecs under coverage-guided fuzzing, for a fixed number of runs; `make fuzz` runs on."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUNS = 4000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris has wheels for x86_64 only")
def test_nothing_that_coverage_finds_breaks_the_codecs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.l7.fuzz_http1", f"-runs={RUNS}", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert f"Done {RUNS} runs" in result.stderr
