"""Session tickets that any worker of any proxy opens: sealed with the fleet's keys, by OpenSSL's callback.

The standard library has no word for ticket keys. OpenSSL asks a callback for each ticket that it seals or opens
(SSL_CTX_set_tlsext_ticket_key_evp_cb): it is given the key's name, and puts cipher and MAC in place (RFC 5077
section 4: AES-256-CBC, HMAC-SHA256). A ticket under an older key is opened and answered with a new one; one under a key
that is not known costs its client a full handshake, and nothing else.

Keys lie in memory that is wiped when they are no longer used. Copies that Python made on the way here (the snapshot is
text) are beyond reach: whoever reads a worker's memory has the certificates' keys as well.
"""

import ctypes
import os
import secrets
import ssl
from typing import Final

from l7.openssl import TICKET_CALLBACK, OpenSslUnreachable, is_tls13, set_ticket_callback
from orchestrator.contract.ticket import CIPHER_OCTETS, MAC_OCTETS, NAME_OCTETS, TicketKey, TicketKeys

_IV_OCTETS: Final = 16
#: core.h: types of OSSL_PARAM.
_UTF8_STRING: Final = 4
_OCTET_STRING: Final = 5

#: What the callback answers (SSL_CTX_set_tlsext_ticket_key_evp_cb(3)).
_UNKNOWN: Final = 0
_READY: Final = 1
_READY_AND_RENEW: Final = 2


class _Parameter(ctypes.Structure):
    """OSSL_PARAM (core.h)."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    )


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcrypto.so.3", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError as error:
        raise OpenSslUnreachable(f"this Python has {ssl.OPENSSL_VERSION}, and not libcrypto.so.3") from error
    library.EVP_aes_256_cbc.restype = ctypes.c_void_p
    library.OPENSSL_cleanse.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.OPENSSL_cleanse.restype = None
    library.EVP_MAC_CTX_set_params.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    for function in (library.EVP_EncryptInit_ex, library.EVP_DecryptInit_ex):
        function.argtypes = [ctypes.c_void_p] * 5
    return library


_LIBCRYPTO: Final = _library()
_CIPHER: Final = ctypes.c_void_p(_LIBCRYPTO.EVP_aes_256_cbc())
_DIGEST: Final = ctypes.create_string_buffer(b"sha256")


class _Key:
    """A key where OpenSSL can read it."""

    __slots__ = ("_secret", "cipher", "mac", "name")

    def __init__(self, key: TicketKey) -> None:
        self.name = bytes.fromhex(key.name)
        size = MAC_OCTETS + CIPHER_OCTETS
        self._secret = (ctypes.c_char * size).from_buffer(bytearray.fromhex(key.secret))
        at = ctypes.addressof(self._secret)
        self.cipher = ctypes.c_void_p(at + MAC_OCTETS)
        self.mac = (_Parameter * 3)(
            _Parameter(b"key", _OCTET_STRING, at, MAC_OCTETS, 0),
            _Parameter(b"digest", _UTF8_STRING, ctypes.addressof(_DIGEST), len(_DIGEST) - 1, 0),
            _Parameter(None, 0, None, 0, 0),
        )

    def __repr__(self) -> str:
        return f"<key {self.name.hex()[:8]}>"

    def wipe(self) -> None:
        """Nothing is sealed or opened with it from now on."""
        _LIBCRYPTO.OPENSSL_cleanse(ctypes.addressof(self._secret), len(self._secret))


def random_keys() -> TicketKeys:
    """Keys that only this process has."""
    key = TicketKey(name=secrets.token_hex(NAME_OCTETS), secret=secrets.token_hex(MAC_OCTETS + CIPHER_OCTETS))
    return TicketKeys(issuing=key)


class Tickets:
    """One worker's keys, for all of its contexts. Swapped in one step; handshakes happen in the same thread."""

    def __init__(self, keys: TicketKeys | None = None) -> None:
        self.keys = keys or random_keys()
        self.unknown = 0
        """Tickets under keys that are not known: aged out, or of somebody else."""
        self._issuing = _Key(self.keys.issuing)
        self._accepted = self._by_name(self.keys)
        self.callback = TICKET_CALLBACK(self._prepare)
        """What OpenSSL calls. Whoever has a sealed context must keep it."""

    def __repr__(self) -> str:
        return f"<Tickets: {self._issuing!r} issues, {len(self._accepted)} accepted>"

    def _by_name(self, keys: TicketKeys) -> dict[bytes, _Key]:
        return {self._issuing.name: self._issuing} | {key.name: key for key in map(_Key, keys.accepting)}

    def use(self, keys: TicketKeys | None) -> None:
        """From now on. None: those that are in use."""
        if keys is None or keys == self.keys:
            return
        before = self._accepted
        self.keys = keys
        self._issuing = _Key(keys.issuing)
        self._accepted = self._by_name(keys)
        for key in before.values():
            key.wipe()

    def seal(self, context: ssl.SSLContext) -> None:
        """Have a context seal and open its tickets with these keys. `callback` must live as long as the context."""
        set_ticket_callback(context, self.callback)

    def _prepare(self, connection: int, name: int, iv: int, cipher: int, mac: int, sealing: int) -> int:
        if sealing:
            key = self._issuing
            ctypes.memmove(name, key.name, NAME_OCTETS)
            ctypes.memmove(iv, os.urandom(_IV_OCTETS), _IV_OCTETS)
            initialised = _LIBCRYPTO.EVP_EncryptInit_ex(cipher, _CIPHER, None, key.cipher, iv)
            answer = _READY
        else:
            found = self._accepted.get(ctypes.string_at(name, NAME_OCTETS))
            if found is None:
                self.unknown += 1
                return _UNKNOWN
            key = found
            initialised = _LIBCRYPTO.EVP_DecryptInit_ex(cipher, _CIPHER, None, key.cipher, iv)
            # RFC 8446 appendix C.4: a client uses a ticket once, so each resumption brings the next one. (That is
            # also what acknowledges its Finished at once, which its next record may be waiting for.)
            renew = key is not self._issuing or is_tls13(connection)
            answer = _READY_AND_RENEW if renew else _READY
        if initialised != 1 or _LIBCRYPTO.EVP_MAC_CTX_set_params(mac, key.mac) != 1:
            return _UNKNOWN
        return answer
