#!/usr/bin/python3
# SPDX-License-Identifier: ISC
"""Writes vectors.txt to standard output.

Made from doc/protocol.md alone and with nothing but Python's standard library, so that the C code is held against a second
reading of the protocol and not against itself.
"""
import hashlib
import hmac
import ipaddress
import struct

INTRODUCTION = """\
# SPDX-License-Identifier: ISC
# Test vectors for doc/protocol.md, written by make_vectors.py: change that, not this.
#
# Each [section] is one message. Its lines are NAME = VALUE; "bytes" is the whole message as it goes over the wire.
#   hexadecimal:     bytes, payload, token, ping, key_id, key, proxy_nonce, relay_nonce, hello, challenge, set, piece_N
#   decimal:         serial, size (flags not counted), number, reason, version, features, type, first, blocks, block, index,
#                    serials (of the block, with a blank between them)
#   IPv4:PORT or [IPv6]:PORT:  destination, client
# "verdict" says what a receiver does with a control datagram: ok (the fields are its meaning), skip (unknown and optional), or
# bad (it ends the stripe).
"""

EXTENSION = 0xFFFF0001
FEATURE_PARITY = 1
KEPT = 0x80000000
PARITY = 0x40000000
KEY_ID = bytes.fromhex("726f2d726f2d3031")
KEY = bytes(range(0x40, 0x60))
PROXY_NONCE = bytes(range(0x80, 0xA0))
RELAY_NONCE = bytes(range(0xC0, 0xE0))
TOKEN = bytes(range(0x10, 0x20))


def section(name, **fields):
    print(f"\n[{name}]")
    for field, value in fields.items():
        print(f"{field} = {value.hex() if isinstance(value, bytes) else value}".rstrip())


def datagram(serial, payload, flags=0):
    return struct.pack("!II", serial, flags | len(payload)) + payload


def control(kind, body=b""):
    return datagram(0, struct.pack("!HH", kind, 0) + body)


def endpoint(host, port):
    address = ipaddress.ip_address(host)
    return struct.pack("!BBH16s", address.version, 0, port, address.packed)


def text(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def mac(key, label, first, second):
    return hmac.new(key, label + first + second, hashlib.sha512).digest()[:32]


def base_protocol():
    section("base-first", number=0, bytes=struct.pack("!I", 0))
    section("base-number", number=305419896, bytes=struct.pack("!I", 0x12345678))
    section("base-largest-number", number=0xFFFEFFFF, bytes=struct.pack("!I", 0xFFFEFFFF))


def transmission():
    for name, serial, payload in (("first", 1, b"hello"), ("empty", 2, b""), ("last", 0xFFFFFFFF, bytes(300))):
        section(f"datagram-{name}", serial=serial, size=len(payload), payload=payload, bytes=datagram(serial, payload))


def product(a, b):
    """In GF(2^8)."""
    result = 0
    while b:
        result ^= a if b & 1 else 0
        a, b = a << 1 ^ (0x11D if a & 0x80 else 0), b >> 1
    return result


def inverse(a):
    return next(b for b in range(256) if product(a, b) == 1)


def crc32c(data):
    """Without the inversion in the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def parity_header(first, bits, blocks, block, index):
    """Returns the set, and the header."""
    members = sum(1 << bit for bit in bits).to_bytes(32, "little")
    return members, struct.pack("!I32sBBBB", first, members, blocks, block, index, 0)


def parity_bytes(payloads, index):
    length = 8 + max(map(len, payloads))
    result = bytes(length)
    for number, payload in enumerate(payloads):
        factor = inverse((len(payloads) + index) ^ number)
        piece = (struct.pack("!II", len(payload), crc32c(payload)) + payload).ljust(length, b"\0")
        result = bytes(before ^ product(factor, byte) for before, byte in zip(result, piece))
    return result


def parity():
    section("datagram-kept", serial=3, size=5, payload=b"again", bytes=datagram(3, b"again", KEPT))
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    members, header = parity_header(0xFFFFFFFE, (0, 1, 3, 4, 9, 17, 255), 2, 1, 5)
    section("parity-header", first=0xFFFFFFFE, set=members, blocks=2, block=1, index=5, serials="4294967295 3 16",
            bytes=header)
    payloads = (b"hello", b"", bytes(range(0xF0, 0x100)))
    _, header = parity_header(7, (0, 1, 2), 1, 0, 1)
    payload = header + parity_bytes(payloads, 1)
    section("parity", piece_0=payloads[0], piece_1=payloads[1], piece_2=payloads[2], serial=7, size=len(payload),
            bytes=datagram(7, payload, PARITY))


def greeting(suffix, key_id, key, features=0):
    hello = struct.pack("!IHHI8s32s", EXTENSION, 1, 0, features, key_id, PROXY_NONCE)
    head = struct.pack("!IHHI32s", EXTENSION, 1, 0, features, RELAY_NONCE)
    challenge = head + mac(key, b"ro-ro-tcp relay 1", hello, head)
    proof = mac(key, b"ro-ro-tcp proxy 1", hello, challenge)
    assert (len(hello), len(challenge), len(proof)) == (52, 76, 32)
    section(f"hello{suffix}", version=1, features=features, key_id=key_id, proxy_nonce=PROXY_NONCE, bytes=hello)
    section(f"challenge{suffix}", version=1, features=features, key=key, hello=hello, relay_nonce=RELAY_NONCE,
            bytes=challenge)
    section(f"proof{suffix}", key=key, hello=hello, challenge=challenge, bytes=proof)


def control_datagrams():
    for name, destination, client in (
        ("ipv4", ("203.0.113.80", 443), ("192.168.1.20", 51000)),
        ("ipv6", ("2001:db8::80", 80), ("fd00::1:2:3", 65535)),
        ("mixed", ("2001:db8:1:2:3:4:5:6", 1), ("10.0.0.1", 0)),
    ):
        body = TOKEN + endpoint(*destination) + endpoint(*client)
        section(f"open-{name}", verdict="ok", type=1, token=TOKEN, destination=text(*destination), client=text(*client),
                bytes=control(1, body))
    section("join", verdict="ok", type=2, token=TOKEN, bytes=control(2, TOKEN))
    section("number", verdict="ok", type=3, number=0x12345678, reason=0, bytes=control(3, struct.pack("!II", 0x12345678, 0)))
    section("number-refused", verdict="ok", type=3, number=0, reason=5, bytes=control(3, struct.pack("!II", 0, 5)))
    section("connected", verdict="ok", type=4, bytes=control(4))
    section("failed", verdict="ok", type=5, reason=1, bytes=control(5, struct.pack("!I", 1)))
    section("fin", verdict="ok", type=6, serial=1000, bytes=control(6, struct.pack("!I", 1000)))
    section("fin-nothing-sent", verdict="ok", type=6, serial=0, bytes=control(6, struct.pack("!I", 0)))
    section("reset", verdict="ok", type=7, reason=8, serial=77, bytes=control(7, struct.pack("!II", 8, 77)))
    section("detach", verdict="ok", type=8, bytes=control(8))
    section("ping", verdict="ok", type=9, ping=b"8 bytes!", bytes=control(9, b"8 bytes!"))
    section("pong", verdict="ok", type=10, ping=b"8 bytes!", bytes=control(10, b"8 bytes!"))
    section("worn", verdict="ok", type=0x8001, bytes=control(0x8001))


def unusual_control_datagrams():
    good = endpoint("203.0.113.80", 443)
    section("unknown-optional", verdict="skip", type=0x8002, bytes=control(0x8002, b"from a later version"))
    section("unknown-optional-largest", verdict="skip", type=0xFFFF, bytes=control(0xFFFF, bytes(124)))
    section("unknown-mandatory", verdict="bad", type=11, bytes=control(11))
    section("type-zero", verdict="bad", type=0, bytes=control(0))
    section("too-small", verdict="bad", bytes=datagram(0, b"\0\4\0"))
    section("too-large", verdict="bad", bytes=control(0x8001, bytes(125)))
    section("body-too-long", verdict="bad", type=8, bytes=control(8, b"\0"))
    section("body-too-short", verdict="bad", type=2, bytes=control(2, TOKEN[:-1]))
    section("open-other-family", verdict="bad", type=1, bytes=control(1, TOKEN + b"\5" + good[1:] + good))
    section("open-port-zero", verdict="bad", type=1, bytes=control(1, TOKEN + endpoint("203.0.113.80", 0) + good))
    section("open-bytes-behind-ipv4", verdict="bad", type=1, bytes=control(1, TOKEN + good + good[:-1] + b"\1"))


print(INTRODUCTION, end="")
base_protocol()
transmission()
parity()
greeting("", KEY_ID, KEY)
greeting("-without-key", bytes(8), bytes(32))
greeting("-parity", KEY_ID, KEY, FEATURE_PARITY)
control_datagrams()
unusual_control_datagrams()
