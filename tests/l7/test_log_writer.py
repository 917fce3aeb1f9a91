"""The access log's writer: bounded, and never in a request's way."""

from pathlib import Path

from l7 import limits
from l7.telemetry.access_log import AccessRecord
from l7.telemetry.log_writer import AccessLogWriter


def record(path: bytes) -> AccessRecord:
    return AccessRecord(
        time=0.0,
        request_id="1",
        client="198.51.100.7",
        vip="web-v4",
        l4_node=None,
        tls_version=None,
        protocol="HTTP/1.1",
        method=b"GET",
        host=b"www.example.com",
        path=path,
    )


async def test_a_batch_is_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    writer = AccessLogWriter(path, format_record=lambda each: each.path.decode())
    for number in range(3 * limits.LOG_PORTION):
        writer.add(record(b"/%d" % number))
    await writer.flush()
    assert path.read_text().splitlines() == ["before", *(f"/{number}" for number in range(3 * limits.LOG_PORTION))]


async def test_records_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    writer = AccessLogWriter(tmp_path / "access.log")
    one = record(b"/")
    for _ in range(limits.MAX_LOG_RECORDS + 5):
        writer.add(one)
    assert writer.dropped == 5


async def test_a_file_that_cannot_be_written_costs_records_only(tmp_path: Path) -> None:
    writer = AccessLogWriter(tmp_path / "missing" / "access.log")
    writer.add(record(b"/a"))
    await writer.flush()
    assert writer.dropped == 1
    (tmp_path / "missing").mkdir()
    writer.add(record(b"/b"))
    await writer.flush()
    assert writer.dropped == 1
    assert '"path":"/b"' in (tmp_path / "missing" / "access.log").read_text()
