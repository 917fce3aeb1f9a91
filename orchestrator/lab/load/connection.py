"""A client's TLS connection whose silences are measured and whose failures are named."""

import errno
import fcntl
import socket
import ssl
import struct
import termios
from types import TracebackType
from typing import Self

import trio

from orchestrator.lab.load.breakage import SILENCE_BOUND_S, Breakage, Broken, breakage_of

#: Bytes taken by one read: a TLS record's most (RFC 8446 section 5.1).
READ_BYTES = 16_384


def client_context(ca_file: str) -> ssl.SSLContext:
    """TLS as a browser would speak it, trusting only the lab's CA. Raises OSError if the file is no CA."""
    return ssl.create_default_context(cafile=ca_file)


class TlsConnection:
    """One connection. Use as an async context manager; every failure is a `Broken`."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], *, silence_bound_s: float = SILENCE_BOUND_S) -> None:
        self._stream = stream
        self._socket = stream.transport_stream.socket
        self._silence_bound_s = silence_bound_s
        self._sending_was_refused = False
        self._unacknowledged = 0
        self._acknowledged_at = trio.current_time()
        address = self._socket.getsockname()
        host = f"[{address[0]}]" if self._socket.family == socket.AF_INET6 else address[0]
        self.name = f"{host}:{address[1]}"
        """Its own end as a packet trace names it; also when it is closed."""
        self.asked = ""
        """The path of the latest request."""
        self.answered_by = ""
        """The backend of its answer, once its head has come."""
        self.longest_silence_s = 0.0
        """Longest wait so far for bytes, or acknowledgements, that were due."""

    def __repr__(self) -> str:
        return f"TlsConnection({self.name}, longest silence {self.longest_silence_s:.3f} s)"

    def ask(self, path: str) -> None:
        """Notes what is asked for next, for whoever tells of a failure."""
        self.asked, self.answered_by = path, ""

    @classmethod
    async def open(
        cls,
        address: str,
        port: int,
        *,
        host: str,
        context: ssl.SSLContext,
        source: str | None = None,
        silence_bound_s: float = SILENCE_BOUND_S,
    ) -> Self:
        """Connect and shake hands, within the silence bound. Raises Broken."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connecting = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            with trio.fail_after(silence_bound_s):
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if source is not None:
                    # The port is chosen on connect, so that one source address serves many destinations.
                    connecting.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
                    await connecting.bind((source, 0))
                await connecting.connect((address, port))
                stream = trio.SSLStream(
                    trio.SocketStream(connecting), context, server_hostname=host, https_compatible=True
                )
                await stream.do_handshake()
        except trio.TooSlowError:
            connecting.close()
            raise Broken(Breakage.SILENT, f"no connection within {silence_bound_s:g} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            connecting.close()
            raise Broken(Breakage.REFUSED, f"no connection: {error.__cause__ or error}") from error
        except BaseException:
            connecting.close()
            raise
        return cls(stream, silence_bound_s=silence_bound_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A FIN without close_notify, as HTTP clients do: all lengths were known, so there is nothing left to say.
        await trio.aclose_forcefully(self._stream)

    async def send(self, data: bytes) -> None:
        """Hand bytes to the kernel. Raises Broken; that the peer had closed cleanly shows in the next `receive`."""
        try:
            with trio.fail_after(self._silence_bound_s):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise self._silence("its receive window stayed shut") from None
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EPIPE:
                # The peer's FIN came before our bytes (Linux then answers writes with EPIPE, and reads with end of
                # stream): a clean close that crossed our request.
                self._sending_was_refused = True
                return
            raise breakage_of(error) from error

    async def receive(self) -> bytes:
        """The next bytes, or b"" after a clean close. Raises Broken."""
        if self._sending_was_refused:
            return b""
        began = trio.current_time()
        try:
            with trio.fail_after(self._silence_bound_s):
                data = await self._stream.receive_some(READ_BYTES)
        except trio.TooSlowError:
            raise self._silence("no byte came") from None
        except trio.BrokenResourceError as error:
            raise breakage_of(error) from error
        finally:
            self.longest_silence_s = max(self.longest_silence_s, trio.current_time() - began)
        return bytes(data)

    async def wait_idle(self, seconds: float) -> bool:
        """Wait between two requests; whether the connection is still open. Raises Broken."""
        with trio.move_on_after(seconds):
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError as error:
                raise breakage_of(error) from error
            if data:
                raise Broken(Breakage.UNEXPECTED_ANSWER, f"{bytes(data[:60])!r} though nothing was asked")
            return False
        return True

    def check_acknowledged(self) -> None:
        """For a sender that hears nothing back: raises Broken if nothing was acknowledged for the silence bound."""
        unacknowledged = unacknowledged_bytes(self._socket)
        now = trio.current_time()
        if unacknowledged == 0 or unacknowledged < self._unacknowledged:
            self._acknowledged_at = now
        self._unacknowledged = unacknowledged
        silence_s = now - self._acknowledged_at
        self.longest_silence_s = max(self.longest_silence_s, silence_s)
        if silence_s > self._silence_bound_s:
            raise self._silence(f"{unacknowledged} bytes unacknowledged")

    def _silence(self, what: str) -> Broken:
        self.longest_silence_s = max(self.longest_silence_s, self._silence_bound_s)
        return Broken(Breakage.SILENT, f"{what} for {self._silence_bound_s:g} s")


def unacknowledged_bytes(sock: trio.socket.SocketType) -> int:
    """Bytes of the send queue that the peer has not acknowledged (SIOCOUTQ, tcp(7))."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
