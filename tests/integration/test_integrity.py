# SPDX-License-Identifier: ISC
"""What goes in comes out: by hash, both directions at once, over links good and bad."""

import concurrent.futures
import socket
import threading
import time

import pytest
from harness import DIRECT, PATIENCE, accept, wait_for
from traffic import MIB, check_same, exchange, noise, receive_all, receive_exactly

SIZES = [0, 1] + [2 ** k + d for k in range(8, 21) for d in (-1, 0, 1)]

LINKS = {
    'loss': {'delay': '5ms', 'loss': '1%'},
    'reordering': {'delay': '5ms', 'reorder': '3%', 'reorder_delay': '4ms'},
    'bursts': {'delay': '5ms', 'loss': '1%', 'burst': 8},
}


@pytest.mark.parametrize('stripes', [1, 2, 8, 64])
def test_sizes(make_gateway, mode, stripes, listener, sockets):
    gateway = make_gateway(mode=mode, stripes=stripes)
    for size in SIZES:
        client, server = sockets(*gateway.pair(listener))
        exchange(client, server, noise(size, 1), noise(size, 2))
        client.close()
        server.close()
    gateway.proxy.wait_counter('flows_finished', len(SIZES))
    check_mode_was_used(gateway, mode)


def check_mode_was_used(gateway, mode):
    """A test of splicing that only ever copied would show nothing."""
    spliced = sum(daemon.counter('bytes_spliced') for daemon in gateway.daemons())
    assert (spliced > 0) == (mode == 'splice'), f'{spliced} bytes were spliced in mode {mode}'


@pytest.mark.slow
@pytest.mark.parametrize('stripes', [1, 2, 8, 64])
def test_64_mb(make_gateway, mode, stripes, listener, sockets):
    # Without a pool the relay sees no other stripes than those of the flow.
    gateway = make_gateway(mode=mode, stripes=stripes, proxy=['--pool', '0:0'])
    client, server = sockets(*gateway.pair(listener))
    exchange(client, server, noise(64 * MIB, 1), noise(64 * MIB, 2))
    used = gateway.relay.counter('stripes_total')
    assert (used > 1) == (stripes > 1) and used <= stripes, f'{used} stripes were used of {stripes}'


# Each link with each mode, each number of stripes with each mode, not each with each.
@pytest.mark.slow
@pytest.mark.parametrize('mode, stripes, link, size', [
    ('splice', 8, 'loss', 64 * MIB),
    ('copy', 64, 'loss', 16 * MIB),
    ('copy', 8, 'reordering', 64 * MIB),
    ('splice', 64, 'reordering', 16 * MIB),
    ('splice', 2, 'bursts', 16 * MIB),
    ('copy', 8, 'bursts', 16 * MIB),
    ('splice', 1, 'bursts', 4 * MIB),
    ('copy', 1, 'loss', 4 * MIB),
])
def test_over_a_bad_link(make_gateway, lab, mode, stripes, link, size, listener, sockets):
    gateway = make_gateway(mode=mode, stripes=stripes)
    lab.set(**LINKS[link])
    before = lab.stats()
    client, server = sockets(*gateway.pair(listener))
    exchange(client, server, noise(size, 1), noise(size, 2))
    counter = 'reordered' if link == 'reordering' else 'dropped_loss'
    for direction in ('up', 'down'):
        happened = lab.stats()[direction][counter] - before[direction][counter]
        assert happened > 0, f'the link did nothing to the test, {direction}'


def test_short_flows_over_a_bad_link(make_gateway, mode, lab, listener, sockets):
    """Once losses are known of, young flows are covered by parity, from which what is held up is made; and all comes but once."""
    # Before the first stripe: one that has seen a shorter path takes this one for short, on which nothing is covered.
    lab.set(rate='100mbit', delay='10ms', loss='3%')
    gateway = make_gateway(mode=mode)
    deadline = time.monotonic() + PATIENCE
    while not all(daemon.counter(name) for daemon in gateway.daemons() for name in ('parities_out', 'datagrams_recovered')):
        assert time.monotonic() < deadline, 'nothing was covered, or nothing recovered'
        client, server = sockets(*gateway.pair(listener))
        for round in range(3):  # with a rest after each, and none after the last
            data = noise(60_000, round)
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(data)
                check_same(receive_exactly(receiver, len(data)), data)
        exchange(client, server, noise(100_000, 1), noise(100_000, 2))
        client.close()
        server.close()


@pytest.mark.parametrize('from_client', [True, False], ids=['up', 'down'])
def test_worn_stripes_are_replaced(make_gateway, lab, from_client, listener, sockets):
    """Whichever end it is that has lost something, and whose window is small since."""
    lab.set(rate='100mbit', delay='50ms', loss='3%')
    gateway = make_gateway()
    deadline = time.monotonic() + PATIENCE
    while gateway.proxy.counter('stripes_worn') < 3:
        assert time.monotonic() < deadline, 'hardly one was replaced'
        client, server = sockets(*gateway.pair(listener))
        sender, receiver = (client, server) if from_client else (server, client)
        sender.sendall(noise(100_000))
        check_same(receive_exactly(receiver, 100_000), noise(100_000))
        client.close()
        server.close()
    gateway.proxy.wait_counter('flows_now', 0)
    gateway.proxy.wait_counter('flows_reset', 0)


@pytest.mark.slow
@pytest.mark.parametrize('mode, stripes', [('splice', 64), ('copy', 8)])
def test_blackhole(make_gateway, lab, mode, stripes, listener, sockets):
    """Three seconds in the middle of it during which nothing passes."""
    gateway = make_gateway(mode=mode, stripes=stripes)
    lab.set(rate='100mbit', delay='5ms')
    client, server = sockets(*gateway.pair(listener))
    up, down = noise(16 * MIB, 1), noise(16 * MIB, 2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(exchange, client, server, up, down)
        half_way = go_dark(lab, gateway)
        running.result()
    assert half_way < len(up), 'all had arrived before the blackhole'


def go_dark(lab, gateway):
    """Returns how much had arrived at the relay by the end of it."""
    wait_for('data to flow', lambda: gateway.relay.counter('bytes_in') > MIB
             and gateway.proxy.counter('bytes_in') > MIB)
    lab.blackhole(True)
    time.sleep(3)  # this is how long it lasts, not a wait for anything
    half_way = gateway.relay.counter('bytes_in')
    lab.blackhole(False)
    return half_way


def test_byte_by_byte(gateway, listener, sockets):
    client, server = sockets(*gateway.pair(listener))
    data = noise(2000)
    for sender, receiver in ((client, server), (server, client)):
        got = bytearray()
        for i in range(len(data)):
            sender.sendall(data[i:i + 1])
            if i % 7 == 0:  # now and then each by itself, and otherwise in small heaps
                got += receive_exactly(receiver, i + 1 - len(got))
        got += receive_exactly(receiver, len(data) - len(got))
        check_same(got, data)


def round_trips(client, server, count):
    """The median time of a request of 100 bytes and its answer."""
    def answer():
        for _ in range(count):
            server.sendall(receive_exactly(server, 100))

    thread = threading.Thread(target=answer)
    thread.start()
    times = []
    request = noise(100)
    for _ in range(count):
        start = time.perf_counter()
        client.sendall(request)
        receive_exactly(client, 100)
        times.append(time.perf_counter() - start)
    thread.join()
    return sorted(times)[count // 2]


@pytest.mark.parametrize('delay, count', [('0ms', 500), ('10ms', 60)])
def test_ping_pong(gateway, lab, delay, count, listener, sockets):
    """Interactive traffic is not held back: at most 10 % and 1 ms on top of the direct way."""
    lab.set(delay=delay)
    client, server = sockets(*gateway.pair(listener))
    direct_client = sockets(gateway.client(listener, address=DIRECT[0]))
    direct_server = sockets(accept(listener, through_relay=False))
    assert direct_server.getpeername()[0] == lab.address('client')
    through, direct = [], []
    with lab.on_one_core():
        for _ in range(3):  # in turns, since the machine has other things to do as well
            through.append(round_trips(client, server, count // 3))
            direct.append(round_trips(direct_client, direct_server, count // 3))
    allowed = sorted(direct)[1] * 1.1 + 0.001
    took = sorted(through)[1]
    assert took <= allowed, f'{took:.6f} s, direct {sorted(direct)[1]:.6f} s'


def test_urgent_data(gateway, listener, sockets):
    """An urgent byte is a byte of the flow like any other, in its place."""
    for ends in (lambda pair: pair, lambda pair: pair[::-1]):
        sender, receiver = ends(sockets(*gateway.pair(listener)))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            got = pool.submit(receive_all, receiver)
            sender.sendall(bytes(300_000))
            sender.send(b'!', socket.MSG_OOB)
            sender.sendall(bytes(300_000))
            sender.shutdown(socket.SHUT_WR)
            assert got.result() == bytes(300_000) + b'!' + bytes(300_000)
