"""HTTP/2 clients as a process: many requests at a time on each connection, and every goodbye obeyed.

`http2_load.py CA HOST PORT ADDRESS...` asks until its stdin ends, then prints one JSON object: what was answered, what
failed and how, and how many connections were ended by a GOAWAY.
"""

import json
import ssl
import sys
from collections import Counter

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import trio

#: Connections to each address, and requests at a time on each.
CONNECTIONS = 3
STREAMS = 3
#: Between two requests.
PAUSE_S = 0.05
#: Nothing takes so long here.
SILENCE_S = 15.0


class Counts:
    """Of all clients."""

    def __init__(self) -> None:
        self.answered = 0
        self.goaways = 0
        self.connections = 0
        self.refused_streams = 0
        """Refused before anything was done with them, which is safe to ask again (RFC 9113 section 8.7)."""
        self.failures: Counter[str] = Counter()
        self.finishing = False


async def ask(host: str, port: int, address: str, context: ssl.SSLContext, counts: Counts) -> None:
    """One connection after another."""
    while not counts.finishing:
        try:
            with trio.fail_after(SILENCE_S):
                plain = await trio.open_tcp_stream(address, port)
                stream = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
                await stream.do_handshake()
            counts.connections += 1
            await converse(stream, host, counts)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h2.exceptions.ProtocolError) as error:
            counts.failures[f"{type(error).__name__}: {error} {error.__cause__ or ''}"] += 1
            await trio.sleep(PAUSE_S)


async def converse(stream: trio.SSLStream[trio.SocketStream], host: str, counts: Counts) -> None:
    """Until the server says goodbye, or it is time to finish. Raises BrokenResourceError if it is cut."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", host)]
    status: dict[int, bytes] = {}
    buffer = bytearray()
    leaving = False
    while True:
        while not leaving and not counts.finishing and len(status) < STREAMS:
            number = connection.get_next_available_stream_id()
            connection.send_headers(number, head, end_stream=True)
            status[number] = b""
        await stream.send_all(connection.data_to_send())
        if not status:
            await stream.aclose()
            return
        with trio.fail_after(SILENCE_S):
            data = bytes(await stream.receive_some(65536))
        if not data:
            counts.failures[f"cut with {len(status)} requests under way"] += 1
            return
        data, last_streams = without_goaways(buffer, data)
        for number in last_streams:
            leaving = True
            counts.goaways += 1
            for late in [each for each in status if each > number]:
                del status[late]
                counts.refused_streams += 1
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                status[event.stream_id] = dict(event.headers)[b":status"]
            elif isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                seen = status.pop(event.stream_id, b"200")
                counts.answered += seen == b"200"
                if seen != b"200":
                    counts.failures[f"status {seen!r}"] += 1
                await trio.sleep(PAUSE_S)
            elif isinstance(event, h2.events.StreamReset):
                status.pop(event.stream_id, None)
                if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                    counts.refused_streams += 1
                else:
                    counts.failures[f"reset with {event.error_code!r}"] += 1


def without_goaways(buffer: bytearray, data: bytes) -> tuple[bytes, list[int]]:
    """Whole frames but GOAWAYs, and the last streams of those (RFC 9113 section 6.8): `h2` would take the first one for
    the end of everything.
    """
    buffer += data
    passed, last_streams = bytearray(), []
    while len(buffer) >= 9 and len(buffer) >= (end := 9 + int.from_bytes(buffer[:3])):
        if buffer[3] == 7:
            last_streams.append(int.from_bytes(buffer[9:13]) & 0x7FFFFFFF)
        else:
            passed += buffer[:end]
        del buffer[:end]
    return bytes(passed), last_streams


async def run(ca: str, host: str, port: int, addresses: list[str]) -> Counts:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    counts = Counts()
    async with trio.open_nursery() as nursery:
        for address in addresses:
            for _ in range(CONNECTIONS):
                nursery.start_soon(ask, host, port, address, context, counts)
        stdin = trio.lowlevel.FdStream(0)
        while await stdin.receive_some(100):
            pass
        counts.finishing = True
    return counts


if __name__ == "__main__":
    done = trio.run(run, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    keys = ("answered", "goaways", "connections", "refused_streams", "failures")
    print(json.dumps({key: getattr(done, key) for key in keys}))
