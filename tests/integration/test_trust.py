# SPDX-License-Identifier: ISC
"""Who may use a relay, and for what."""

import os
import select

import extended_speaker as x
import pytest
from harness import RELAY_PORT, accept, find_program
from traffic import check_same, exchange, expect_reset_of_new, noise, receive_exactly

PROMPTLY = 2
KEY = (b'gateway1', bytes(range(1, 33)))
OTHER = (b'gateway2', bytes(range(2, 34)))
OWN = ['127.0.0.1', '127.9.9.9', '::1', '10.77.2.2', '10.77.3.1', 'fd77:2::2', 'fd77:3::1']
SPECIAL = ['0.0.0.0', '::', '169.254.1.1', 'fe80::1', '224.0.0.1', '239.1.2.3', 'ff02::1',
           'ff0e::1', '::ffff:127.0.0.1', '::ffff:10.77.2.2', '255.255.255.255']


def key_line(key):
    return f'{key[0].hex()}:{key[1].hex()}\n'


@pytest.fixture
def key_file(folder):
    """key_file(key, ...) writes a key file and returns its path."""
    def write(*keys, name='keys'):
        path = folder / name
        path.write_text('# keys of the test\n\n' + ''.join(map(key_line, keys)))
        path.chmod(0o600)
        return str(path)

    return write


@pytest.fixture
def start_relay(start, key_file):
    def make(*options, keys=(KEY,)):
        return start('relay', 'relay', '--workers', '2', '--verbose', '--key', key_file(*keys),
                     *options)

    return make


@pytest.fixture
def connect(lab, sockets):
    def make():
        sock = sockets(lab.socket('gw'))
        sock.settimeout(PROMPTLY)
        sock.connect((lab.address('relay'), RELAY_PORT))
        return sock

    return make


def refused_in_silence(sock):
    try:
        assert sock.recv(1) == b'', 'the relay answered'
    except ConnectionResetError:
        pass


# --- greeting ----------------------------------------------------------------------------------

def test_each_key_of_the_file_is_good(start_relay, connect):
    start_relay(keys=(KEY, OTHER))
    for key in (KEY, OTHER):
        x.Proxy(connect, key).dial().ping()


@pytest.mark.parametrize('key', [
    (KEY[0], OTHER[1]), OTHER, (KEY[0], KEY[1][:-1] + b'\0'), x.NO_KEY, (KEY[0], bytes(32)),
    (bytes(8), KEY[1])], ids=['wrong secret', 'unknown id', 'one bit off', 'no key', 'zero secret',
                              'zero id'])
def test_wrong_key(start_relay, connect, key):
    """The relay answers all alike, so that it tells nobody which ids exist, and takes no Proof."""
    relay = start_relay()
    sock = connect()
    greeting = x.hello(key[0])
    sock.sendall(greeting)
    answer = x.receive_exactly(sock, 76)
    assert answer[44:] != x.mac(key[1], b'ro-ro-tcp relay 1', greeting, answer[:44])
    sock.sendall(x.proof(key[1], greeting, answer))
    refused_in_silence(sock)
    relay.wait_counter('greetings_refused', 1)
    relay.wait_counter('stripes_now', 0)
    x.Proxy(connect, KEY).dial().ping()


def test_replayed_greeting(start_relay, connect):
    """What was once good is worth nothing a second time."""
    relay = start_relay()
    sock = connect()
    greeting = x.hello(KEY[0])
    sock.sendall(greeting)
    answer = x.receive_exactly(sock, 76)
    proof = x.proof(KEY[1], greeting, answer)
    sock.sendall(proof)
    x.Stripe(sock).ping()
    again = connect()
    again.sendall(greeting + proof)
    assert x.receive_exactly(again, 76) != answer
    refused_in_silence(again)
    relay.wait_counter('greetings_refused', 1)


def test_reflected_proof(start_relay, connect):
    """The relay's own proof, sent back to it, is not the proxy's."""
    start_relay()
    sock = connect()
    sock.sendall(x.hello(KEY[0]))
    sock.sendall(x.receive_exactly(sock, 76)[44:])
    refused_in_silence(sock)


def test_nonces_are_new_each_time(start_relay, connect):
    start_relay()
    greeting = x.hello(KEY[0])
    nonces = set()
    for _ in range(20):
        sock = connect()
        sock.sendall(greeting)
        nonces.add(x.receive_exactly(sock, 76)[12:44])
    assert len(nonces) == 20


def test_join_needs_the_same_key(start_relay, connect, listener, lab):
    """Who has another key can't take part in a group, even if he knows its token."""
    start_relay(keys=(KEY, OTHER))
    destination = (lab.address('server'), listener.getsockname()[1])
    group = x.Proxy(connect, KEY).open(destination)
    server = accept(listener)
    stripe = x.Proxy(connect, OTHER).dial()
    stripe.sock.settimeout(10)
    stripe.send(x.join(group.token))
    assert stripe.expect(x.NUMBER).numbers()[0] == 0
    group.send(b'goes on')
    check_same(receive_exactly(server, 7), b'goes on')
    group.close()
    server.close()


def test_whole_gateway_with_a_key(make_gateway, mode, key_file, listener, sockets):
    path = key_file(KEY)
    gateway = make_gateway(mode=mode, key=path)
    client, server = sockets(*gateway.pair(listener))
    exchange(client, server, noise(1_000_000, 1), noise(1_000_000, 2))


@pytest.mark.parametrize('proxy_key', [OTHER, (KEY[0], OTHER[1]), None],
                         ids=['unknown id', 'wrong secret', 'no key'])
def test_gateway_with_another_key(start_relay, start, lab, firewall, key_file, sockets, proxy_key):
    """The client is reset, and the proxy's log says what is wrong."""
    relay = start_relay()
    key = ['--key', key_file(proxy_key, name='proxy-keys')] if proxy_key else []
    proxy = start('gw', 'proxy', '--relay', lab.address('relay'), '--workers', '1', *key)
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (lab.address('server'), 80), 5)
    proxy.wait_log(r'key', PROMPTLY)
    assert relay.counter('flows_total') == 0


def test_keyless_relay_refuses_a_key(start, connect):
    start('relay', 'relay', '--insecure', '--workers', '1')
    with pytest.raises((x.Broken, ConnectionError)):
        x.Proxy(connect, KEY).dial()
    x.Proxy(connect).dial().ping()


@pytest.mark.parametrize('options', [
    [], ['--allow-base'], ['--allow-base', '--server', '10.77.3.2:80'],
    ['--allow', 'any']], ids=' '.join)
def test_relay_does_not_start_without_a_key(lab, options):
    done = lab.run('relay', [find_program(), 'relay', '--control', 'none', *options], timeout=10,
                   check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith('ro-ro-tcp: ')


# --- destinations -------------------------------------------------------------------------------

def ask(connect, address, port):
    """What the relay says to an Open: None if it has connected, else the reason."""
    stripe = x.Proxy(connect, KEY).dial()
    stripe.send(x.open_group(os.urandom(16), (address, port)))
    stripe.sock.settimeout(10)
    while True:
        message = stripe.read()
        assert isinstance(message, x.Control), f'{message!r}'
        if message.kind == x.CONNECTED:
            stripe.close()
            return None
        if message.kind == x.FAILED:
            return message.numbers()[0]
        if message.kind == x.NUMBER and message.numbers()[0] == 0:
            return message.numbers()[1]


@pytest.fixture
def service(lab):
    """A listener on the relay host itself, on all its addresses: the port."""
    with lab.listen('relay', 4) as four, lab.listen('relay', 6, four.getsockname()[1]):
        yield four.getsockname()[1]


def test_own_addresses_are_forbidden(start_relay, connect, service):
    relay = start_relay()
    for address in OWN + SPECIAL:
        assert ask(connect, address, service) == x.FORBIDDEN, address
        assert ask(connect, address, RELAY_PORT) == x.FORBIDDEN, address
    relay.wait_counter('flows_refused', 2 * len(OWN + SPECIAL), 5)


def test_allow_makes_exceptions(start_relay, connect, service):
    start_relay('--allow', f'127.0.0.1/32:{service}', '--allow', '[::1]/128')
    assert ask(connect, '127.0.0.1', service) is None
    assert ask(connect, '::1', service) is None
    assert ask(connect, '127.0.0.2', service) == x.FORBIDDEN
    assert ask(connect, '127.0.0.1', RELAY_PORT) == x.FORBIDDEN
    assert ask(connect, '10.77.2.2', service) == x.FORBIDDEN


def test_deny(start_relay, connect, lab, listener):
    port = listener.getsockname()[1]
    with lab.listen('server') as other, lab.listen('server', 6, port):
        start_relay('--deny', f'10.77.3.2:{port}')
        assert ask(connect, '10.77.3.2', port) == x.FORBIDDEN
        assert ask(connect, '10.77.3.2', other.getsockname()[1]) is None
        assert ask(connect, 'fd77:3::2', port) is None


@pytest.mark.parametrize('rules, reason', [
    (['--allow', '10.77.3.2', '--deny', 'any'], None),
    (['--deny', '10.77.3.0/24', '--allow', 'any'], x.FORBIDDEN),
    (['--allow', '10.77.3.2:1-79', '--deny', 'any'], x.FORBIDDEN),
    (['--deny', '10.77.4.0/24', '--deny', 'fd77::/16'], None),
], ids=['allow first', 'deny first', 'other ports', 'others'])
def test_first_rule_that_matches_decides(start_relay, connect, listener, rules, reason):
    start_relay(*rules)
    assert ask(connect, '10.77.3.2', listener.getsockname()[1]) == reason


def test_forbidden_resets_the_client(make_gateway, lab, listener, sockets):
    gateway = make_gateway(relay=['--deny', 'any'])
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (lab.address('server'), listener.getsockname()[1]), PROMPTLY)
    gateway.proxy.wait_log(r'client \S+ -> \S+: refused: .*forb|refuse', PROMPTLY)
    gateway.relay.wait_counter('flows_refused', 1, 5)


# --- limits --------------------------------------------------------------------------------------

def test_stripes_are_limited(start_relay, connect):
    start_relay('--max-stripes-per-peer', '3', '--workers', '1')
    kept = [x.Proxy(connect, KEY).dial() for _ in range(3)]
    with pytest.raises((x.Broken, ConnectionError)):
        x.Proxy(connect, KEY).dial()
    for stripe in kept:
        stripe.ping()


def test_groups_are_limited(start_relay, connect, lab, listener, sockets):
    start_relay('--max-groups', '2', '--workers', '1')
    destination = (lab.address('server'), listener.getsockname()[1])
    groups = [x.Proxy(connect, KEY).open(destination) for _ in range(2)]
    servers = [sockets(accept(listener)) for _ in groups]
    assert ask(connect, *destination) == x.OVERLOADED
    groups[0].send(b'goes on')
    assert b'goes on' in [bytes(receive_exactly(server, 7)) for server in servers
                          if readable(server)]
    for group in groups:
        group.close()


def readable(sock):
    return bool(select.select([sock], [], [], 1)[0])



def test_mapped_address_is_judged_as_what_it_is(start_relay, connect, listener):
    start_relay('--deny', '10.77.3.2')
    assert ask(connect, '::ffff:10.77.3.2', listener.getsockname()[1]) == x.FORBIDDEN
