"""What OpenSSL 3 offers and the standard library's `ssl` does not: sessions of a context, reached with ctypes.

Python's context object holds OpenSSL's as its first member (Modules/_ssl.c, PySSLContext). That is nobody's promise, so
each pointer is checked before it is used: what OpenSSL answers about it must be what Python says of the context. And
the library must be the very one that Python itself has loaded.
"""

import ctypes
import os
import ssl
from typing import Final

_SONAME: Final = "libssl.so.3"
_CTRL_SET_SESS_CACHE_MODE: Final = 44
_CTRL_GET_MIN_PROTO_VERSION: Final = 130
_SESS_CACHE_OFF: Final = 0
_TLS13: Final = 0x0304

#: SSL_MAX_SID_CTX_LENGTH (ssl.h).
MAX_SESSION_CONTEXT: Final = 32


#: `int (SSL *, unsigned char name[16], unsigned char iv[], EVP_CIPHER_CTX *, EVP_MAC_CTX *, int sealing)`
TICKET_CALLBACK: Final = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
)


class OpenSslUnreachable(Exception):
    """Python's OpenSSL is not one that this module knows: TLS cannot be served safely by this interpreter."""


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_SONAME, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError as error:
        raise OpenSslUnreachable(
            f"this Python has {ssl.OPENSSL_VERSION} and not {_SONAME} as a shared library: use the system's Python"
        ) from error
    library.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
    library.SSL_CTX_get_options.restype = ctypes.c_uint64
    library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    library.SSL_CTX_ctrl.restype = ctypes.c_long
    library.SSL_CTX_set_session_id_context.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint]
    library.SSL_CTX_set_session_id_context.restype = ctypes.c_int
    library.SSL_version.argtypes = [ctypes.c_void_p]
    library.SSL_version.restype = ctypes.c_int
    library.SSL_CTX_set_tlsext_ticket_key_evp_cb.argtypes = [ctypes.c_void_p, TICKET_CALLBACK]
    library.SSL_CTX_set_tlsext_ticket_key_evp_cb.restype = ctypes.c_int
    return library


_LIBSSL: Final = _library()


def pointer_to(context: ssl.SSLContext) -> ctypes.c_void_p:
    """OpenSSL's `SSL_CTX *` of a context, valid as long as the context lives.

    Raises:
        OpenSslUnreachable: it is not where it is expected.
    """
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    if not pointer.value:
        raise OpenSslUnreachable("a TLS context without an SSL_CTX")
    options = _LIBSSL.SSL_CTX_get_options(pointer)
    oldest = _LIBSSL.SSL_CTX_ctrl(pointer, _CTRL_GET_MIN_PROTO_VERSION, 0, None)
    if options != context.options & 0xFFFF_FFFF_FFFF_FFFF or oldest != context.minimum_version:
        raise OpenSslUnreachable("this Python keeps its SSL_CTX elsewhere")
    return pointer


def forget_sessions(context: ssl.SSLContext) -> None:
    """Keep no sessions in this process, so that none is resumed by its id."""
    _LIBSSL.SSL_CTX_ctrl(pointer_to(context), _CTRL_SET_SESS_CACHE_MODE, _SESS_CACHE_OFF, None)


def bind_sessions(context: ssl.SSLContext, name: bytes) -> None:
    """Resume no session but those of contexts of the same name, in this process or another.

    `name`: at most `MAX_SESSION_CONTEXT` bytes.
    """
    if _LIBSSL.SSL_CTX_set_session_id_context(pointer_to(context), name, len(name)) != 1:
        raise ValueError(f"a session context of {len(name)} bytes: 1 to {MAX_SESSION_CONTEXT} are possible")


def set_ticket_callback(context: ssl.SSLContext, callback: "ctypes._FuncPointer") -> None:
    """Have it called for each session ticket that is sealed or opened. It must live as long as the context.

    Raises:
        OpenSslUnreachable: OpenSSL takes none.
    """
    if _LIBSSL.SSL_CTX_set_tlsext_ticket_key_evp_cb(pointer_to(context), callback) != 1:
        raise OpenSslUnreachable("OpenSSL takes no callback for session tickets")


def is_tls13(connection: int) -> bool:
    """Whether a connection, by its `SSL *` (as callbacks get it), has settled on TLS 1.3."""
    return bool(_LIBSSL.SSL_version(connection) == _TLS13)
