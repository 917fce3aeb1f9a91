"""What keeper and incarnation take from each other, and what they refuse: sockets that are not what they are said to
be, messages out of turn, other versions.
"""

import socket
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from l7.handover import HandoverRefused, KeptSocket, Purpose, named
from l7.keeper import Keeper, Times
from l7.listener import listen
from l7.notify import Notifier

LOOPBACK = "127.0.0.1"


def name_of(sock: socket.socket, *, port: int | None = None, address: str = LOOPBACK) -> KeptSocket:
    wanted = port or sock.getsockname()[1]
    return KeptSocket.model_validate({"purpose": Purpose.LISTENER, "address": address, "port": wanted})


@pytest.fixture
def closing() -> Iterator[Callable[[socket.socket], socket.socket]]:
    with ExitStack() as stack:
        yield lambda sock: stack.enter_context(sock)


def test_sockets_get_the_names_that_they_came_with(closing: Callable[[socket.socket], socket.socket]) -> None:
    first, second = closing(listen(LOOPBACK, 0)), closing(listen("::1", 0))
    names = name_of(first), name_of(second, address="::1")
    assert named(names, (first, second)) == dict(zip(names, (first, second), strict=True))


def bound_only() -> socket.socket:
    sock = socket.socket()
    sock.bind((LOOPBACK, 0))
    return sock


def datagrams() -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((LOOPBACK, 0))
    return sock


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(bound_only, "does not listen", id="not-listening"),
        pytest.param(datagrams, "is no TCP socket", id="udp"),
        pytest.param(lambda: listen("127.0.0.2", 0), "is bound to 127.0.0.2 port", id="other-address"),
    ],
)
def test_a_socket_that_is_not_what_it_is_said_to_be_is_refused_and_closed(
    make: Callable[[], socket.socket], reason: str
) -> None:
    good, bad = listen(LOOPBACK, 0), make()
    with pytest.raises(HandoverRefused, match=reason):
        named((name_of(good), name_of(bad)), (good, bad))
    assert (good.fileno(), bad.fileno()) == (-1, -1)


def test_a_unix_socket_is_refused() -> None:
    sock = socket.socket(socket.AF_UNIX)
    with pytest.raises(HandoverRefused, match="is no TCP socket"):
        named((KeptSocket.model_validate({"purpose": "metrics", "address": LOOPBACK, "port": 1}),), (sock,))
    assert sock.fileno() == -1


@pytest.mark.parametrize("number", [0, 1, 3])
def test_as_many_sockets_as_names(number: int) -> None:
    sockets = tuple(listen(LOOPBACK, 0) for _ in range(number))
    named_ones = (listen(LOOPBACK, 0), listen(LOOPBACK, 0))
    names = tuple(map(name_of, named_ones))
    for sock in named_ones:
        sock.close()
    with pytest.raises(HandoverRefused, match=f"{number} sockets came with 2 names"):
        named(names, sockets)
    assert all(sock.fileno() == -1 for sock in sockets)


def test_two_sockets_of_one_name_are_refused() -> None:
    sock = listen(LOOPBACK, 0)
    twin = sock.dup()
    with pytest.raises(HandoverRefused, match="2 sockets came with 1 names"):
        named((name_of(sock), name_of(sock)), (sock, twin))
    assert (sock.fileno(), twin.fileno()) == (-1, -1)


#: An incarnation that says what it likes. `say` sends JSON, with a listening socket or without.
SPEAKER = """
import array, socket, struct, sys, time
fd = int(sys.argv[sys.argv.index("--keeper") + 1])
end = socket.socket(fileno=fd)
def say(text, *socks):
    rights = array.array("i", [s.fileno() for s in socks])
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if socks else []
    end.sendmsg([struct.pack("!I", len(text)) + text.encode()], beside)
hello = '{"kind":"hello","protocol":1,"release":"x"}'
listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
"""


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        pytest.param("end.send(b'GET / HTTP/1.1')", "a frame of 1195725856 bytes", id="no-frame"),
        pytest.param("say('{}')", "Unable to extract tag", id="no-message"),
        pytest.param('say(\'{"kind":"in-service"}\')', "it began with in-service", id="no-hello"),
        pytest.param("say(hello.replace('1', '7'))", "speaks version 7 of the handover", id="other-version"),
        pytest.param("say(hello, listening)", "it began with hello", id="hello-with-a-socket"),
        pytest.param("say(hello); say(hello)", "message out of turn: hello", id="two-hellos"),
        pytest.param('say(hello); say(\'{"kind":"hold"}\')', "message out of turn: hold", id="an-order"),
        pytest.param('say(hello); say(\'{"kind":"in-service"}\', end)', "came with in-service", id="stray-socket"),
        pytest.param(
            'say(hello); say(\'{"kind":"deposit","sockets":[{"purpose":"listener","address":"127.0.0.9",'
            '"port":%d}]}\' % port, listening)',
            "is bound to 127.0.0.1",
            id="wrong-socket",
        ),
        pytest.param(
            'say(hello); say(\'{"kind":"deposit","sockets":[{"purpose":"listener","address":"127.0.0.1",'
            '"port":%d}]}\' % port)',
            "0 sockets came with 1 names",
            id="no-socket",
        ),
        pytest.param(
            'say(hello); say(\'{"kind":"trouble","reason":"%s"}\' % (\'x\' * 3000))',
            "at most 2000",
            id="long-reason",
        ),
        pytest.param("end.close()", "closed the channel", id="silent"),
    ],
)
async def test_an_incarnation_that_breaks_the_handover_is_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, says: str, reason: str
) -> None:
    script = tmp_path / "speaker.py"
    script.write_text(textwrap.dedent(SPEAKER) + says + "\ntime.sleep(60)\n")
    keeper = Keeper([sys.executable, str(script)], Times(), Notifier({}))
    assert await keeper.run() != 0
    assert reason in caplog.text


async def test_one_that_ends_before_it_ever_served_takes_the_keeper_along() -> None:
    command = [sys.executable, "-c", "raise SystemExit(7)"]
    assert await Keeper(command, Times(), Notifier({})).run() == 7


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await Keeper([str(tmp_path / "none")], Times(), Notifier({})).run()
    assert raised.group_contains(FileNotFoundError)
