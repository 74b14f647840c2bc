# SPDX-License-Identifier: ISC
"""Many flows, at once and in a row, and ends that don't read: nothing stays or piles up."""

import contextlib
import threading

import pytest
from harness import accept, is_sanitized, wait_for
from traffic import (MIB, check_same, exchange, noise, receive_all, receive_exactly, send_all,
                     send_until_stuck, together)


def check_memory(program, daemon, before, allowed):
    """Not with a sanitizer, which keeps what was freed."""
    if not is_sanitized(program):
        grown = daemon.memory() - before
        assert grown <= allowed, f'{daemon.role} has grown by {grown / MIB:.1f} MB'


@pytest.mark.slow
def test_1000_at_once(gateway, lab, sockets):
    count, size = 1000, 2000
    with lab.listen('server', backlog=2 * count) as listener:
        clients = [sockets(gateway.client(listener)) for _ in range(count)]
        for i, client in enumerate(clients):
            client.sendall(noise(size, i))
        servers = [sockets(accept(listener)) for _ in range(count)]
    came = set()
    for server in servers:
        request = bytes(receive_exactly(server, size))
        came.add(request)
        server.sendall(request[::-1])
    assert came == {noise(size, i) for i in range(count)} and len(came) == count
    for i, client in enumerate(clients):
        check_same(receive_exactly(client, size), noise(size, i)[::-1])
    for daemon in gateway.daemons():
        assert daemon.counter('flows_now') == count
    for sock in clients + servers:
        sock.close()
    gateway.wait_idle()


@pytest.mark.slow
def test_5000_in_a_row(gateway, lab, listener, program):
    """After a warm-up nothing grows: no descriptor, no pipe, no buffer, no memory."""
    def serve(count):
        for _ in range(count):
            with accept(listener) as server:
                server.sendall(receive_exactly(server, 100))
                assert receive_all(server) == b''

    def fetch(count):
        for i in range(count):
            with gateway.client(listener) as client:
                client.sendall(noise(100, i))
                check_same(receive_exactly(client, 100), noise(100, i))

    def run(count):
        together((serve, count), (fetch, count))
        gateway.wait_idle()

    def state(daemon):
        counters = daemon.counters()
        own = daemon.descriptors() - counters['stripes_now'] - 2 * counters['pipes_now']
        return own, counters['stripes_now']

    run(500)
    before = {daemon: (state(daemon), daemon.memory()) for daemon in gateway.daemons()}
    run(5000)
    for daemon in gateway.daemons():
        (own, stripes), memory = before[daemon]
        wait_for(f'{daemon.role} to have no more descriptors than before: {own}, not counting '
                 f'stripes and pipes; it has {state(daemon)[0]}', lambda: state(daemon)[0] == own)
        # The pool of stripes may breathe, but it doesn't follow the number of flows.
        assert state(daemon)[1] <= max(stripes, 2 * 128), 'stripes are left behind'
        check_memory(program, daemon, memory, 2 * MIB)
        daemon.wait_counter('flows_finished', 5500, 5)


@pytest.mark.slow
@pytest.mark.parametrize('who', ['client', 'server'])
def test_backpressure(make_gateway, mode, who, listener, sockets, program):
    """An end that doesn't read stops the sender, and costs the daemons no memory."""
    gateway = make_gateway(mode=mode, stripes=8)
    warm = sockets(*gateway.pair(listener))
    exchange(*warm, noise(MIB), noise(MIB))
    before = {daemon: daemon.memory() for daemon in gateway.daemons()}
    client, server = sockets(*gateway.pair(listener))
    sender, reader = (server, client) if who == 'client' else (client, server)
    data = noise(64 * MIB) * 4
    sent = send_until_stuck(sender, data)
    assert sent < len(data), 'nothing held the sender back'
    for daemon in gateway.daemons():
        check_memory(program, daemon, before[daemon], 4 * MIB)
    sender.setblocking(True)
    sender.settimeout(30)
    _, got = together((send_all, sender, memoryview(data)[sent:]), (receive_all, reader))
    check_same(got, data)


@pytest.mark.slow
def test_reads_now_and_then(make_gateway, mode, listener, sockets):
    """A client that pauses again and again: the stripes that are given back and still full don't
    pile up."""
    gateway = make_gateway(mode=mode, proxy=['--stripes', '4'])

    def bound(daemon):
        counters = daemon.counters()
        return counters['stripes_now'] - counters['stripes_idle_now']

    client, server = sockets(*gateway.pair(listener))
    data = noise(MIB)
    send_until_stuck(server, data * 64)

    def reads_on():
        with contextlib.suppress(BlockingIOError):
            server.send(data)
        receive_exactly(client, 64 * 1024)
        return bound(gateway.relay) > 1

    for _ in range(4):
        # The relay has given up all but one, the proxy those of them that it has read.
        wait_for('stripes to be given back', lambda: bound(gateway.relay) == 1)
        assert bound(gateway.proxy) <= 2 * 4
        wait_for('the flow to take stripes again', reads_on)


@pytest.mark.slow
def test_a_stuck_flow_stops_no_other(gateway, listener, sockets):
    """More flows than workers stand still with all buffers full; a new one runs as ever."""
    stuck = []
    for _ in range(6):
        client, server = sockets(*gateway.pair(listener))
        assert send_until_stuck(server, noise(64 * MIB), quiet=0.3) > MIB
        stuck.append((client, server))
    client, server = sockets(*gateway.pair(listener))
    exchange(client, server, noise(4 * MIB, 1), noise(4 * MIB, 2))


@pytest.mark.slow
def test_many_in_parallel_with_data(make_gateway, mode, listener, sockets):
    """40 flows of 1 MB each way at the same time, over stripes that they share out."""
    gateway = make_gateway(mode=mode, stripes=4)
    pairs = [sockets(*gateway.pair(listener)) for _ in range(40)]
    threads = []
    failures = []

    def run(i, client, server):
        try:
            exchange(client, server, noise(MIB, 2 * i), noise(MIB, 2 * i + 1))
        except BaseException as failure:
            failures.append(failure)

    for i, (client, server) in enumerate(pairs):
        threads.append(threading.Thread(target=run, args=(i, client, server)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
