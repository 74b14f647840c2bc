# SPDX-License-Identifier: ISC
"""The base protocol: each role of the program against the independent speaker in the other.

That serials go from 0xffffffff to 1 is shown by the unit tests: a peer cannot begin elsewhere than
at 1, so to get there would take four thousand million datagrams.
"""

import socket
import struct
import threading

import pytest
from base_speaker import (Broken, Proxy, Relay, datagram, receive_number, send_number)
from harness import RELAY_PORT, accept, endpoint, wait_for
from traffic import (MIB, check_same, close_with_reset, exchange, expect_error_unread,
                     expect_reset, expect_reset_of_new, noise, receive_all, receive_exactly,
                     send_all, together)

PROMPTLY = 2


def both_modes(mode):
    return ['--no-splice'] if mode == 'copy' else []


# --- our relay ---------------------------------------------------------------------------------

@pytest.fixture
def relay(start, lab, listener, mode):
    server = endpoint(lab.address('server'), listener.getsockname()[1])
    daemon = start('relay', 'relay', '--insecure', '--allow-base', '--server', server,
                   '--workers', '2', '--verbose', *both_modes(mode))
    yield daemon
    if daemon.running():
        daemon.wait_idle()


@pytest.fixture
def connect(lab, sockets):
    """connect() makes a connection from the gateway to the relay."""
    def make():
        sock = sockets(lab.socket('gw'))
        sock.settimeout(30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((lab.address('relay'), RELAY_PORT))
        return sock

    return make


@pytest.fixture
def innocent(relay, connect, listener, sockets):
    """A flow that must go on, whatever becomes of others: call it to see that it does."""
    group = Proxy(connect).open(stripes=2)
    server = sockets(accept(listener))

    def check():
        group.send(b'still there?')
        check_same(receive_exactly(server, 12), b'still there?')
        server.sendall(b'yes')
        assert group.receive(3) == b'yes'
        assert relay.running()

    check()
    yield check
    group.close()


@pytest.mark.parametrize('stripes', [1, 3, 16])
def test_relay_carries_data(relay, connect, listener, sockets, stripes):
    group = Proxy(connect).open(stripes)
    server = sockets(accept(listener))
    up, down = noise(10 * MIB, 1), noise(10 * MIB, 2)
    *_, got_up, got_down = together((group.send, up), (send_all, server, down),
                                    (receive_exactly, server, len(up)), (group.receive, None))
    check_same(got_up, up)
    check_same(got_down, down)
    group.end_sending()
    assert receive_all(server) == b''


@pytest.mark.parametrize('stripes', [1, 4])
def test_relay_half_closes(relay, connect, listener, sockets, stripes):
    group = Proxy(connect).open(stripes)
    server = sockets(accept(listener))
    group.send(b'request')
    group.end_sending()
    check_same(receive_all(server), b'request')
    answer = noise(3 * MIB)
    _, got = together((send_all, server, answer), (group.receive,))
    check_same(got, answer)


def test_relay_keeps_half_open_until_the_last_stripe_has_ended(relay, connect, listener, sockets):
    group = Proxy(connect).open(3)
    server = sockets(accept(listener))
    for stripe in group.stripes[:2]:
        stripe.shutdown(socket.SHUT_WR)
    group.send_datagram(b'by the third', group.stripes[2])
    check_same(receive_exactly(server, 12), b'by the third')
    group.stripes[2].shutdown(socket.SHUT_WR)
    assert receive_all(server) == b''


def test_relay_puts_in_order(relay, connect, listener, sockets):
    """All serials of one stripe, then those between them on the other, backwards in time."""
    group = Proxy(connect).open(2)
    server = sockets(accept(listener))
    late, early = group.stripes
    pieces = [noise(1 + 37 * i % 999, i) for i in range(100)]
    for i in range(1, 100, 2):
        early.sendall(datagram(i + 1, pieces[i]))
    for i in range(0, 100, 2):
        late.sendall(datagram(i + 1, pieces[i]))
    whole = b''.join(pieces)
    check_same(receive_exactly(server, len(whole)), whole)


def test_relay_takes_datagrams_in_crumbs(relay, connect, listener, sockets):
    group = Proxy(connect).open()
    server = sockets(accept(listener))
    for byte in datagram(1, b'crumbs') + datagram(2, b'') + datagram(3, b'!'):
        group.stripes[0].sendall(bytes([byte]))
    check_same(receive_exactly(server, 7), b'crumbs!')


def test_relay_takes_empty_datagrams(relay, connect, listener, sockets):
    group = Proxy(connect).open(2)
    server = sockets(accept(listener))
    for payload in (b'', b'a', b'', b'', b'b', b''):
        group.send_datagram(payload)
    check_same(receive_exactly(server, 2), b'ab')
    group.end_sending()
    assert receive_all(server) == b''


def test_relay_takes_large_datagrams(relay, connect, listener, sockets):
    """The seed sets no limit to their size."""
    group = Proxy(connect).open(2)
    server = sockets(accept(listener))
    data = noise(12 * MIB)
    _, got = together((group.send, data, 3 * MIB), (receive_exactly, server, len(data)))
    check_same(got, data)


def test_relay_takes_a_stripe_while_data_flows(relay, connect, listener, sockets):
    proxy = Proxy(connect)
    group = proxy.open()
    server = sockets(accept(listener))
    data = noise(8 * MIB, 1)

    def send():
        for i in range(8):
            group.send(data[i * MIB:(i + 1) * MIB])
            proxy.join(group)

    _, got = together((send,), (receive_exactly, server, len(data)))
    check_same(got, data)
    down = noise(MIB, 2)
    _, got = together((send_all, server, down), (group.receive,))
    check_same(got, down)


def test_relay_resets(relay, connect, listener, sockets):
    """The server's reset reaches the proxy as a reset of every stripe, or of none but as an end."""
    group = Proxy(connect).open(3)
    server = sockets(accept(listener))
    server.sendall(b'x')
    assert group.receive(1) == b'x'
    close_with_reset(server)
    for stripe in group.stripes:
        expect_error_unread(stripe, PROMPTLY)
    relay.wait_counter('flows_reset', 1)


def test_relay_resets_when_the_server_refuses(relay, connect, listener, lab):
    listener.close()
    group = Proxy(connect).open()
    expect_reset(group.stripes[0], PROMPTLY)
    relay.wait_counter('flows_refused', 1)


def test_relay_gives_each_group_its_own_number(relay, connect, listener, sockets):
    groups = [Proxy(connect).open() for _ in range(50)]
    sockets(*(accept(listener) for _ in groups))
    numbers = {group.number for group in groups}
    assert len(numbers) == 50
    assert all(0 < number < 0xffff0000 for number in numbers)


def base_attacks():
    """What -> what a proxy with a group of two stripes does. Each ends the group, and only it."""
    def truncated(group):
        group.stripes[0].sendall(datagram(1, b'half', size=8))
        group.stripes[0].shutdown(socket.SHUT_WR)

    def truncated_header(group):
        group.stripes[0].sendall(datagram(1, b'')[:5])
        group.stripes[0].shutdown(socket.SHUT_WR)

    def same_serial_again(group):
        group.stripes[0].sendall(datagram(1, b'a') + datagram(1, b'b'))

    def same_serial_on_another_stripe(group):
        group.stripes[0].sendall(datagram(1, b'a'))
        group.stripes[1].sendall(datagram(1, b'a'))

    def falling_serial(group):
        group.stripes[0].sendall(datagram(2, b'b') + datagram(1, b'a'))
        group.stripes[1].sendall(datagram(1, b'a'))

    def serial_0(group):
        group.stripes[0].sendall(datagram(0, b'zero'))

    def far_ahead(group):
        group.stripes[0].sendall(datagram(1 + (1 << 31), b'future'))

    def very_far_ahead(group):
        group.stripes[0].sendall(datagram(0xffffffff, b'future'))

    def missing_serial(group):
        group.stripes[0].sendall(datagram(2, b'where is 1?'))
        group.end_sending()

    def stripe_reset(group):
        close_with_reset(group.stripes[1])

    return [truncated, truncated_header, same_serial_again, same_serial_on_another_stripe,
            falling_serial, serial_0, far_ahead, very_far_ahead, missing_serial, stripe_reset]


@pytest.mark.parametrize('attack', base_attacks(), ids=lambda attack: attack.__name__)
def test_relay_ends_a_group_that_errs(relay, connect, listener, sockets, innocent, attack):
    group = Proxy(connect).open(2)
    server = sockets(accept(listener))
    mark = relay.mark()
    attack(group)
    expect_reset(server, PROMPTLY)
    relay.wait_log(r'flow \d+: .*(ended|reset)', PROMPTLY, mark)
    innocent()


@pytest.mark.parametrize('word', [1_000_000, 0x7fffffff, 0xfffeffff])
def test_relay_refuses_an_unknown_number(relay, connect, innocent, word):
    stripe = connect()
    send_number(stripe, word)
    with pytest.raises((Broken, ConnectionResetError)):
        receive_number(stripe)
    innocent()


def test_relay_refuses_the_number_of_a_group_that_has_ended(relay, connect, listener, sockets):
    group = Proxy(connect).open()
    server = sockets(accept(listener))
    group.end_sending()
    send_all(server, b'')
    assert group.receive() == b''
    relay.wait_counter('flows_now', 0)
    stripe = connect()
    send_number(stripe, group.number)
    with pytest.raises((Broken, ConnectionResetError)):
        receive_number(stripe)


def test_relay_takes_the_number_in_crumbs(relay, connect, listener, sockets, innocent):
    stripe = connect()
    for byte in struct.pack('!I', 0):
        stripe.sendall(bytes([byte]))
    assert receive_number(stripe) != 0
    sockets(accept(listener))
    cut = connect()
    cut.sendall(b'\0\0')
    cut.close()
    innocent()


def test_relay_serves_the_extended_protocol_too(relay, start, lab, firewall, listener, sockets):
    """The same port answers both."""
    start('gw', 'proxy', '--relay', lab.address('relay'), '--workers', '1')
    client = sockets(lab.socket('client'))
    client.settimeout(30)
    client.connect((lab.address('server'), listener.getsockname()[1]))
    server = sockets(accept(listener))
    exchange(client, server, noise(MIB, 1), noise(MIB, 2))


# --- our proxy ---------------------------------------------------------------------------------

@pytest.fixture
def speaker(lab):
    relay = Relay(lab.listen('relay', 4, RELAY_PORT))
    yield relay
    relay.close()


@pytest.fixture
def open_flow(start, lab, firewall, speaker, mode):
    """open_flow(stripes) starts the proxy if needed, and returns (proxy, client, group)."""
    started = []
    clients = []

    def make(stripes=2):
        if not started:
            started.append(start('gw', 'proxy', '--protocol', 'base', '--relay',
                                 lab.address('relay'), '--stripes', stripes, '--workers', '2',
                                 '--verbose', *both_modes(mode)))
        known = list(speaker.groups.values())
        client = lab.socket('client')
        clients.append(client)
        client.settimeout(30)
        client.connect((lab.address('server'), 8080))
        return started[0], client, speaker.wait_group(stripes, besides=known)

    yield make
    for client in clients:
        client.close()
    speaker.close()
    for daemon in started:
        if daemon.running():
            daemon.wait_idle()


@pytest.mark.parametrize('stripes', [1, 3, 16])
def test_proxy_carries_data(open_flow, stripes):
    _, client, group = open_flow(stripes)
    up, down = noise(10 * MIB, 1), noise(10 * MIB, 2)
    *_, got_up, got_down = together((send_all, client, up), (group.send, down),
                                    (group.receive, None), (receive_exactly, client, len(down)))
    check_same(got_up, up)
    check_same(got_down, down)
    group.end_sending()
    assert receive_all(client) == b''


@pytest.mark.parametrize('stripes', [1, 4])
def test_proxy_half_closes(open_flow, stripes):
    _, client, group = open_flow(stripes)
    group.send(b'greeting')
    group.end_sending()
    check_same(receive_all(client), b'greeting')
    data = noise(3 * MIB)
    _, got = together((send_all, client, data), (group.receive,))
    check_same(got, data)


def test_proxy_puts_in_order(open_flow):
    _, client, group = open_flow(2)
    late, early = group.stripes
    pieces = [noise(1 + 37 * i % 999, i) for i in range(100)]
    for i in range(1, 100, 2):
        early.sendall(datagram(i + 1, pieces[i]))
    for i in range(0, 100, 2):
        late.sendall(datagram(i + 1, pieces[i]))
    whole = b''.join(pieces)
    check_same(receive_exactly(client, len(whole)), whole)


def test_proxy_sends_early_what_the_client_sends_early(open_flow):
    """Data that waits before the groups stands is not lost."""
    proxy, first, _ = open_flow(2)
    first.sendall(noise(MIB))
    proxy, client, group = open_flow(2)
    client.sendall(b'at once')
    assert group.receive(7) == b'at once'


@pytest.mark.parametrize('attack', base_attacks(), ids=lambda attack: attack.__name__)
def test_proxy_ends_a_group_that_errs(open_flow, attack):
    proxy, innocent_client, innocent_group = open_flow(2)
    _, client, group = open_flow(2)
    mark = proxy.mark()
    attack(group)
    expect_reset(client, PROMPTLY)
    proxy.wait_log(r'flow \d+: .*(ended|reset)', PROMPTLY, mark)
    innocent_client.sendall(b'still there?')
    assert innocent_group.receive(12) == b'still there?'
    innocent_group.send(b'yes')
    check_same(receive_exactly(innocent_client, 3), b'yes')


def bad_relays():
    def hangs_up(stripe):
        receive_number(stripe)

    def resets(stripe):
        receive_number(stripe)
        close_with_reset(stripe)

    def number_0(stripe):
        receive_number(stripe)
        send_number(stripe, 0)
        stripe.recv(1)

    def extension(stripe):
        receive_number(stripe)
        send_number(stripe, 0xffff0001)
        stripe.recv(1)

    def cut_number(stripe):
        receive_number(stripe)
        stripe.sendall(b'\0\0')

    return [hangs_up, resets, number_0, extension, cut_number]


@pytest.mark.parametrize('relay', bad_relays(), ids=lambda relay: relay.__name__)
def test_proxy_resets_the_client_of_a_bad_relay(start, lab, firewall, sockets, relay):
    with lab.listen('relay', 4, RELAY_PORT) as listener:
        proxy = start('gw', 'proxy', '--protocol', 'base', '--relay', lab.address('relay'),
                      '--stripes', '1', '--workers', '1', '--verbose')

        def play():
            with accept(listener, through_relay=False) as stripe:
                relay(stripe)

        thread = threading.Thread(target=play)
        thread.start()
        client = sockets(lab.socket('client'))
        expect_reset_of_new(client, (lab.address('server'), 8080), PROMPTLY)
        thread.join()
    proxy.wait_log(r'flow \d+: client .*: reset: no way to the relay: .', PROMPTLY)
    proxy.wait_idle()


def test_proxy_resets_when_a_further_stripe_gets_another_number(start, lab, firewall, sockets):
    with lab.listen('relay', 4, RELAY_PORT) as listener:
        proxy = start('gw', 'proxy', '--protocol', 'base', '--relay', lab.address('relay'),
                      '--stripes', '2', '--workers', '1', '--verbose')
        client = sockets(lab.socket('client'))
        client.connect((lab.address('server'), 8080))
        first = sockets(accept(listener, through_relay=False))
        assert receive_number(first) == 0
        send_number(first, 7)
        second = sockets(accept(listener, through_relay=False))
        assert receive_number(second) == 7
        send_number(second, 8)
        expect_reset(client, PROMPTLY)
    wait_for('the proxy to be idle', lambda: proxy.counter('flows_now') == 0, PROMPTLY)


def test_extended_proxy_is_turned_away_by_a_base_relay(start, lab, firewall, speaker, sockets):
    """A Hello looks like an unknown number: the client is reset, and soon."""
    proxy = start('gw', 'proxy', '--relay', lab.address('relay'), '--workers', '1', '--verbose')
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (lab.address('server'), 8080), PROMPTLY)
    assert not speaker.groups
    proxy.wait_counter('flows_now', 0)
