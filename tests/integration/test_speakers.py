# SPDX-License-Identifier: ISC
"""The independent speakers against each other: so that they are not to blame later."""

import os
import socket

import base_speaker
import extended_speaker
import pytest
from extended_speaker import Broken
from traffic import check_same, noise, together

KEY = (b'speakers', bytes(range(32)))
SERVER = ('203.0.113.80', 443)


@pytest.fixture
def loopback():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        def connect():
            sock = socket.create_connection(listener.getsockname(), 10)
            return sock

        yield listener, connect


def both_ways(a, b, size=200_000):
    up, down = noise(size, 1), noise(size, 2)
    *_, got_down, got_up = together((a.send, up), (b.send, down), (a.receive, size),
                                    (b.receive, size))
    check_same(got_up, up)
    check_same(got_down, down)


def test_base(loopback):
    listener, connect = loopback
    relay = base_speaker.Relay(listener, 10)
    at_proxy = base_speaker.Proxy(connect).open(stripes=3)
    at_relay = relay.wait_group(stripes=3)
    assert at_proxy.number == at_relay.number
    both_ways(at_proxy, at_relay)
    base_speaker.Proxy(connect).join(at_proxy)
    both_ways(at_proxy, at_relay)
    at_proxy.end_sending()
    assert at_relay.receive() == b''
    at_relay.send(b'still here')
    at_relay.end_sending()
    assert at_proxy.receive() == b'still here'
    at_proxy.close()
    relay.close()


def test_base_refuses_an_unknown_number(loopback):
    listener, connect = loopback
    relay = base_speaker.Relay(listener, 10)
    with connect() as stripe, pytest.raises(Broken):
        base_speaker.send_number(stripe, 77)
        base_speaker.receive_number(stripe)
    relay.close()


def test_base_notices_a_truncated_datagram(loopback):
    listener, connect = loopback
    relay = base_speaker.Relay(listener, 10)
    at_proxy = base_speaker.Proxy(connect).open()
    at_relay = relay.wait_group()
    at_proxy.stripes[0].sendall(base_speaker.datagram(1, b'abc', size=4))
    at_proxy.close()
    with pytest.raises(Broken, match='inside a datagram'):
        at_relay.receive()
    relay.close()


@pytest.mark.parametrize('stripes', [1, 4])
def test_extended(loopback, stripes):
    listener, connect = loopback
    relay = extended_speaker.Relay(listener, [KEY], 10)
    client = ('2001:db8::7', 7777)
    at_proxy = extended_speaker.Proxy(connect, KEY).open(SERVER, stripes, client)
    at_relay = relay.wait_group(client, stripes)
    assert at_relay.destination == SERVER
    both_ways(at_proxy, at_relay)
    at_proxy.end_sending()
    assert at_relay.receive_all() == b''
    at_relay.send(b'still here')
    at_relay.end_sending()
    assert at_proxy.receive_all() == b'still here'
    idle, also_idle = together((at_proxy.detach,), (at_relay.detach,))
    assert len(idle) == len(also_idle) == stripes
    for stripe in idle + also_idle:
        stripe.close()
    relay.close()


def test_extended_answers_pings(loopback):
    listener, connect = loopback
    relay = extended_speaker.Relay(listener, timeout=10)
    stripe = extended_speaker.Proxy(connect).dial()
    stripe.ping()
    stripe.close()
    relay.close()


@pytest.mark.parametrize('key', [extended_speaker.NO_KEY, (KEY[0], os.urandom(32)),
                                 (b'unknown!', KEY[1])])
def test_extended_refuses_another_key(loopback, key):
    listener, connect = loopback
    relay = extended_speaker.Relay(listener, [KEY], 10)
    with pytest.raises(Broken, match='relay does not have the key'):
        extended_speaker.Proxy(connect, key).dial()
    with connect() as sock:
        greeting = extended_speaker.hello(KEY[0])
        sock.sendall(greeting)
        answer = base_speaker.receive_exactly(sock, 76)
        sock.sendall(extended_speaker.proof(key[1], greeting, answer)[:31] + b'?')
        assert sock.recv(1) == b''
    relay.close()


def vectors():
    """Those of the unit tests, which were made by somebody else: {name: {field: text}}."""
    path = os.path.join(os.path.dirname(__file__), '..', 'unit', 'vectors.txt')
    sections, fields = {}, {}
    with open(path) as file:
        for line in file:
            line = line.strip()
            if line.startswith('['):
                fields = sections.setdefault(line[1:-1], {})
            elif line and not line.startswith('#'):
                name, _, value = line.partition('=')
                fields[name.strip()] = value.strip()
    return sections


def test_extended_agrees_with_the_vectors():
    known = vectors()

    def raw(section, field='bytes'):
        return bytes.fromhex(known[section][field])

    key = raw('challenge', 'key')
    greeting, answer = raw('hello'), raw('challenge')
    assert extended_speaker.hello(raw('hello', 'key_id'), raw('hello', 'proxy_nonce')) == greeting
    assert extended_speaker.hello(raw('hello', 'key_id'), raw('hello', 'proxy_nonce'),
                                  features=extended_speaker.PARITY) == raw('hello-parity')
    assert extended_speaker.mac(key, b'ro-ro-tcp relay 1', greeting, answer[:44]) == answer[44:]
    assert extended_speaker.proof(key, greeting, answer) == raw('proof')
    token = raw('open-ipv4', 'token')
    assert extended_speaker.open_group(token, ('203.0.113.80', 443), ('192.168.1.20', 51000)) \
        == raw('open-ipv4')
    assert extended_speaker.open_group(token, ('2001:db8::80', 80), ('fd00::1:2:3', 65535)) \
        == raw('open-ipv6')
    assert extended_speaker.join(token) == raw('join')
    assert extended_speaker.number(0, extended_speaker.NO_SUCH_GROUP) == raw('number-refused')
    assert extended_speaker.control(extended_speaker.CONNECTED) == raw('connected')
    assert extended_speaker.failed(extended_speaker.REFUSED) == raw('failed')
    assert extended_speaker.fin(1000) == raw('fin')
    assert extended_speaker.reset(extended_speaker.WAS_RESET, 77) == raw('reset')
    assert extended_speaker.control(extended_speaker.PING, b'8 bytes!') == raw('ping')
