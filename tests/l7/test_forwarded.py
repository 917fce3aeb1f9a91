"""Who the client is: by the peer's address, or by the word of so many hops before the proxy, and by nobody else's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7.forwarded import Unbelievable, direct_origin, told_origin
from tests.l7.live_proxy import LiveBackend, running_proxy
from tests.l7.playbook import OK, World

HEAD = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n"
TOLD = [pytest.param(hops, id=f"{hops} hops") for hops in (1, 2, 3)]


def fields(sent: bytes) -> dict[bytes, bytes]:
    """Of an upstream head, without those of everyday; each once."""
    lines = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    names = [line.partition(b": ")[0] for line in lines]
    assert len(names) == len(set(names))
    return {name: line.partition(b": ")[2] for name, line in zip(names, lines, strict=True)}


def said(entries: str, *more: bytes) -> bytes:
    return (
        HEAD + b"X-Forwarded-For: " + entries.encode() + b"\r\n" + b"".join(line + b"\r\n" for line in more) + b"\r\n"
    )


def test_what_a_client_says_about_itself_is_thrown_away() -> None:
    world = World(tls=True).pool()
    forged = (
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Port: 1",
        b"X-Real-Ip: 198.51.100.1",
        b"Forwarded: for=198.51.100.1",
    )
    told = fields(world.request(said("198.51.100.1", *forged)))
    assert told[b"x-forwarded-for"] == b"192.0.2.7"
    assert told[b"x-forwarded-proto"] == b"https"
    assert told[b"forwarded"] == b"for=192.0.2.7;proto=https"
    assert not {b"x-forwarded-host", b"x-forwarded-port", b"x-real-ip"} & told.keys()
    world.respond(OK)
    assert world.last.client == "192.0.2.7"


def test_two_hops_are_believed_and_nothing_before_them() -> None:
    world = World(trusted_hops=2).pool()
    more = (b"X-Forwarded-Proto: HTTPS", b"X-Forwarded-Host: shop.example")
    told = fields(world.request(said("10.0.0.1, 203.0.113.9 ,198.51.100.7", *more)))
    assert told[b"x-forwarded-for"] == b"203.0.113.9, 198.51.100.7, 192.0.2.7"
    assert told[b"x-forwarded-proto"] == b"https"
    assert told[b"x-forwarded-host"] == b"shop.example"
    assert told[b"forwarded"] == b"for=203.0.113.9;proto=https, for=198.51.100.7, for=192.0.2.7;proto=http"
    world.respond(OK)
    assert world.last.client == "203.0.113.9"
    assert world.counted == []


def test_several_fields_are_one_list() -> None:
    world = World(trusted_hops=2).pool()
    told = fields(world.request(said("10.0.0.1, 203.0.113.9", b"X-Forwarded-For: 198.51.100.7")))
    assert told[b"x-forwarded-for"] == b"203.0.113.9, 198.51.100.7, 192.0.2.7"


@pytest.mark.parametrize("entries", ["203.0.113.9", "", "unknown, 198.51.100.7", "203.0.113.9, ", "x" * 9000])
def test_who_came_around_a_hop_is_not_believed(entries: str) -> None:
    world = World(trusted_hops=2).pool()
    told = fields(world.request(said(entries, b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.example")))
    assert told[b"x-forwarded-for"] == b"192.0.2.7"
    assert told[b"x-forwarded-proto"] == b"http"
    assert b"x-forwarded-host" not in told
    assert world.counted == ["forwarded_for_unbelievable"]
    world.respond(OK)
    assert world.last.client == "192.0.2.7"


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:DB8::9", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("[2001:db8::9]:4711", "2001:db8::9"),
    ],
)
def test_entries_with_ports_and_brackets_are_read(entry: str, address: str) -> None:
    claims = [(b"x-forwarded-for", entry.encode())]
    assert told_origin("192.0.2.7", tls=False, claims=claims, trusted_hops=1).client == address


def test_ipv6_addresses_are_quoted_in_forwarded() -> None:
    assert b'\r\nforwarded: for="[2001:db8::7]";proto=http\r\n' in direct_origin("2001:db8::7", tls=False).lines


@pytest.mark.parametrize("value", [b"a b", b"a\r\nb", b"a/b", b"", b"a,b"])
def test_a_forwarded_host_that_is_none_is_left_out(value: bytes) -> None:
    claims = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-host", value)]
    origin = told_origin("192.0.2.7", tls=False, claims=claims, trusted_hops=1)
    assert b"x-forwarded-host" not in origin.lines


@pytest.mark.parametrize("hops", TOLD)
@given(value=st.binary(max_size=80))
def test_no_value_makes_a_line_of_its_own(hops: int, value: bytes) -> None:
    claims = [(name, value) for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")]
    try:
        origin = told_origin("192.0.2.7", tls=True, claims=claims, trusted_hops=hops)
    except Unbelievable:
        return
    names = [line.partition(b": ")[0] for line in origin.lines.split(b"\r\n")]
    assert names[:3] == [b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"]
    assert names[3:] in ([b""], [b"x-forwarded-host", b""])


def test_via_names_the_version_that_the_client_spoke() -> None:
    for version in (b"1.0", b"1.1"):
        world = World().pool()
        sent = world.request(HEAD.replace(b"HTTP/1.1", b"HTTP/" + version) + b"Via: 2 before\r\n\r\n")
        assert sent.count(b"\r\nvia: 2 before\r\n") == sent.count(b"\r\nvia: %b edgefleet\r\n" % version) == 1


async def test_a_listener_s_hops_count_for_its_next_connections() -> None:
    backend = LiveBackend()
    async with running_proxy(backend) as live:
        listener = live.snapshot.listeners[0]
        await live.change(listeners=(listener.model_copy(update={"trusted_hops": 1}),))
        async with await live.connect() as stream:
            await stream.send_all(said("203.0.113.9", b"Connection: close"))
            await live.settled(lambda: len(backend.requests) == 1)
    assert b"\r\nx-forwarded-for: 203.0.113.9, 127.0.0.1\r\n" in backend.requests[0].head
