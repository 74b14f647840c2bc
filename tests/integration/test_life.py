# SPDX-License-Identifier: ISC
"""The daemons' lives: how they start, stop, lose each other and run out of things."""

import contextlib
import os
import signal
import socket
import time

import pytest
from harness import find_program, wait_for
from traffic import (MIB, Echo, echoes, exchange, expect_reset, expect_reset_of_new, noise, ping,
                     receive_exactly)

PROMPTLY = 2


@pytest.fixture(params=['proxy', 'relay'])
def role(request):
    return request.param


def daemon_of(gateway, role):
    return gateway.proxy if role == 'proxy' else gateway.relay


def test_stop_lets_flows_finish(gateway, role, listener, sockets):
    daemon = daemon_of(gateway, role)
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    mark = daemon.mark()
    daemon.send(signal.SIGTERM)
    daemon.wait_log('stopping', PROMPTLY, mark)
    assert daemon.running()
    exchange(client, server, noise(MIB, 1), noise(MIB, 2))
    client.close()
    server.close()
    daemon.check_end(5)  # well before the grace time of 10 s is over


def test_stop_without_flows_is_quick(gateway, role):
    daemon = daemon_of(gateway, role)
    daemon.send(signal.SIGTERM)
    daemon.check_end(PROMPTLY)


def test_interrupt_stops_as_well(gateway, role):
    daemon = daemon_of(gateway, role)
    daemon.send(signal.SIGINT)
    daemon.check_end(PROMPTLY)


def test_grace_over(make_gateway, mode, role, listener, sockets):
    gateway = make_gateway(mode=mode, relay=['--grace', '1'], proxy=['--grace', '1'])
    daemon = daemon_of(gateway, role)
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    daemon.send(signal.SIGTERM)
    expect_reset(client, 1 + PROMPTLY)
    expect_reset(server, PROMPTLY)
    daemon.check_end(PROMPTLY)


def test_second_signal_stops_at_once(make_gateway, mode, role, listener, sockets):
    gateway = make_gateway(mode=mode, relay=['--grace', '60'], proxy=['--grace', '60'])
    daemon = daemon_of(gateway, role)
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    mark = daemon.mark()
    daemon.send(signal.SIGTERM)
    daemon.wait_log('stopping', PROMPTLY, mark)
    daemon.send(signal.SIGTERM)
    expect_reset(client, PROMPTLY)
    expect_reset(server, PROMPTLY)
    daemon.check_end(PROMPTLY)


def test_hangup_is_ignored(gateway, role, listener, sockets):
    daemon = daemon_of(gateway, role)
    daemon.send(signal.SIGHUP)
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    assert daemon.running()


def test_death_resets_the_flows(gateway, role, listener, sockets):
    """Killed without a chance to say a word: both ends are reset, never ended cleanly."""
    daemon = daemon_of(gateway, role)
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    daemon.send(signal.SIGKILL)
    assert daemon.wait(PROMPTLY) == -signal.SIGKILL
    # The kernel closes what the dead daemon held: its own local socket may end with a FIN, the
    # other daemon's must not.
    expect_reset(server if role == 'proxy' else client, PROMPTLY)


def flow_works(gateway, listener):
    return echoes(lambda: gateway.client(listener, timeout=1))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_relay_restarted(gateway, number, listener):
    """New flows work again soon, and the pool's dead stripes fail none of them after that."""
    with Echo(listener):
        assert flow_works(gateway, listener)
        gateway.wait_idle()
        gateway.relay.send(number)
        gateway.relay.wait(PROMPTLY)
        gateway.start_relay()
        wait_for('a new flow to work', lambda: flow_works(gateway, listener), 5)
        for i in range(40):
            assert flow_works(gateway, listener), f'flow {i} after that failed'


def test_relay_down(make_gateway, mode, start, lab, listener, sockets):
    """The client is not left waiting, and the log says why."""
    gateway = make_gateway(mode=mode)
    gateway.relay.stop()
    mark = gateway.proxy.mark()
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (lab.address('server'), listener.getsockname()[1]), PROMPTLY)
    gateway.proxy.wait_log(r'flow \d+: client .* no way to the relay: '
                           r'.*(refused|closed the connection)', PROMPTLY, mark)


@pytest.mark.slow
def test_relay_silent(make_gateway, lab, listener, sockets):
    """The WAN is dark when the client comes: it is reset when the connect timeout is over."""
    lab.blackhole(True)
    gateway = make_gateway(proxy=['--connect-timeout', '2'])
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (lab.address('server'), listener.getsockname()[1]), 2 + PROMPTLY)
    gateway.proxy.wait_log(r'flow \d+: client .* no way to the relay: .', PROMPTLY)


def test_proxy_starts_before_the_relay(make_gateway, listener):
    gateway = make_gateway()
    gateway.relay.stop()
    gateway.proxy.stop()
    gateway.start_proxy()
    gateway.start_relay()
    with Echo(listener):
        wait_for('a flow to work', lambda: flow_works(gateway, listener), 5)


@pytest.mark.slow
def test_out_of_descriptors(make_gateway, lab, role, listener, sockets):
    """It neither dies nor spins, and serves again when there are some."""
    gateway = make_gateway(workers=1)
    daemon_of(gateway, role).stop()
    few = ['setpriv', '--bounding-set=-sys_resource', 'prlimit', '--nofile=200:200']
    daemon = gateway.start_proxy(under=few) if role == 'proxy' else gateway.start_relay(under=few)
    with Echo(listener):
        wait_for('a flow to work', lambda: flow_works(gateway, listener), 5)
        steady = sockets(gateway.client(listener))
        steady.sendall(b'at first')  # else it may still be on its way when there are none left
        assert receive_exactly(steady, 8) == b'at first'
        for i in range(400):
            with contextlib.suppress(ConnectionError):  # some are turned away
                client = sockets(lab.socket('client'))
                client.connect((lab.address('server'), listener.getsockname()[1]))
                if i % 2:
                    client.sendall(b'hello')
        wait_for('the descriptors to run out', lambda: daemon.descriptors() >= 195, 10)
        before, start = daemon.cpu_seconds(), time.monotonic()
        time.sleep(1)  # the time over which the load is measured
        load = (daemon.cpu_seconds() - before) / (time.monotonic() - start)
        assert load < 0.5, f'it spins: {load:.2f} of a core'
        steady.sendall(b'still here')
        assert receive_exactly(steady, 10) == b'still here'
        sockets.close(keep=[steady])
        wait_for('a new flow to work', lambda: flow_works(gateway, listener), 10)
        steady.sendall(b'and here')
        assert receive_exactly(steady, 8) == b'and here'


def test_too_many_flows(make_gateway, lab, listener, sockets):
    gateway = make_gateway(workers=1, proxy=['--max-flows', '3'])
    pairs = [sockets(*gateway.pair(listener)) for _ in range(3)]
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (lab.address('server'), listener.getsockname()[1]), PROMPTLY)
    for pair in pairs:
        ping(*pair)
    gateway.proxy.wait_counter('flows_refused', 1, 5)


@pytest.mark.skipif(os.environ.get('RORO_USER') == 'root', reason='the daemons are told to stay root')
def test_rights_are_dropped(gateway):
    """Neither root, nor any capability but CAP_NET_ADMIN (12)."""
    for daemon in gateway.daemons():
        with open(f'/proc/{daemon.pid}/status') as file:
            status = dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)
        assert '0' not in status['Uid'].split()
        assert '0' not in status['Gid'].split()
        assert status['Groups'].strip() == ''
        for kind in ('CapEff', 'CapPrm'):
            assert int(status[kind], 16) & ~(1 << 12) == 0
        assert int(status['CapInh'], 16) == int(status['CapBnd'], 16) & int(status['CapInh'], 16)


def test_two_on_one_port(gateway, lab):
    """The second one says so, and doesn't share the port."""
    done = lab.run('relay', [find_program(), 'relay', '--insecure', '--control', 'none'],
                   timeout=10, check=False)
    assert done.returncode == 1
    assert 'cannot listen on [::]:9301' in done.stderr


def test_socket_of_the_dead_is_taken_over(start, lab):
    daemon = start('relay', 'relay', '--insecure', '--workers', '1')
    daemon.send(signal.SIGKILL)
    daemon.wait(PROMPTLY)
    again = start('relay', 'relay', '--insecure', '--workers', '1')
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(again.control)
