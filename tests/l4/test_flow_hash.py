"""The flow hash is SipHash-1-3 over the flow as the kernel programs see it."""

import os
import subprocess
import sys
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4.flow_hash import HashKey, flow_hash, row_of, siphash13

MESSAGES = [bytes(range(length)) for length in range(1, 64)]


def interpreters_key(seed: int) -> HashKey:
    """The SipHash key that CPython draws from PYTHONHASHSEED (`lcg_urandom` in `Python/bootstrap_hash.c`)."""
    if seed == 0:
        return HashKey(0, 0)
    drawn = bytearray()
    state = seed
    for _ in range(16):
        state = (state * 214013 + 2531011) & 0xFFFFFFFF
        drawn.append(state >> 16 & 0xFF)
    return HashKey.from_hex(drawn.hex())


@pytest.mark.parametrize("seed", [0, 1, 42, 4294967295])
def test_siphash_agrees_with_the_interpreters_own(seed: int) -> None:
    assert sys.hash_info.algorithm == "siphash13"
    program = "print(*(hash(bytes(range(length))) for length in range(1, 64)))"
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
    )
    expected = [int(word) & 0xFFFF_FFFF_FFFF_FFFF for word in answer.stdout.split()]
    key = interpreters_key(seed)
    assert [siphash13(key, message) for message in MESSAGES] == expected


def test_the_hashed_message_is_laid_out_as_on_the_wire() -> None:
    key = HashKey.from_hex("000102030405060708090a0b0c0d0e0f")
    client, vip = ip_address("198.51.100.7").packed, ip_address("203.0.113.10").packed
    message = bytes.fromhex("c6336407 cb00710a c350 01bb 06 000000")
    assert flow_hash(key, client, vip, 50000, 443) == siphash13(key, message)
    client, vip = ip_address("2001:db8:51::7").packed, ip_address("2001:db8:203::10").packed
    assert flow_hash(key, client, vip, 50000, 443) == siphash13(key, client + vip + message[8:])


def test_the_key_is_read_little_endian() -> None:
    assert HashKey.from_hex("0100000000000000 0200000000000000") == HashKey(1, 2)


@given(st.integers(0, 2**64 - 1), st.integers(101, 655373))
def test_every_hash_has_a_row(hashed: int, rows: int) -> None:
    assert 0 <= row_of(hashed, rows) < rows


def test_rows_take_the_low_half_of_the_hash() -> None:
    assert row_of(0xFFFF_FFFF, 65537) == 65536
    assert row_of(0xABCD_EF01 << 32, 65537) == 0
