# SPDX-License-Identifier: ISC
"""Flows are taken where they were going: by TPROXY and REDIRECT, IPv4 and IPv6, in every mix."""

import contextlib
import pathlib
import shlex
import subprocess

import pytest
from harness import GW_LAN, PROXY_PORT, accept, is_sanitized
from traffic import exchange, expect_reset, expect_reset_of_new, noise, ping, receive_exactly

PROMPTLY = 2


def addresses_of(family):
    return [('10.77.3.2', '10.77.3.100'), ('fd77:3::2', 'fd77:3::100')][family == 6]


@pytest.fixture
def on_gw(lab):
    """on_gw(command, undo) runs a command on the gateway, and the other one after the test."""
    with contextlib.ExitStack() as stack:
        def run(command, undo=None):
            if undo:
                stack.callback(lab.run, 'gw', shlex.split(undo))
            return lab.run('gw', shlex.split(command)).stdout

        yield run


def add_rule(on_gw, program, table, chain, rule):
    on_gw(f'{program} -t {table} -A {chain} {rule}', f'{program} -t {table} -D {chain} {rule}')


@pytest.fixture
def capture_with(firewall):
    """capture_with(option, ...) puts other rules in force for the test."""
    firewall.down()

    def up(*options):
        firewall.up(*options)

    yield up
    firewall.usual()


@pytest.fixture
def second_address(lab):
    """One more address of the server for each family."""
    for address, length in (('10.77.3.100', 24), ('fd77:3::100', 64)):
        lab.run('server', ['ip', 'address', 'replace', f'{address}/{length}', 'dev', 'eth0',
                           *(['nodad'] if ':' in address else [])])


@pytest.mark.parametrize('capture', ['tproxy', 'redirect'])
@pytest.mark.parametrize('family', [4, 6])
@pytest.mark.parametrize('stripes_family', [4, 6])
def test_true_destination(make_gateway, capture_with, lab, second_address, sockets, capture, family,
                          stripes_family):
    """Two addresses and two ports of the server: each flow comes to the one that was dialled."""
    capture_with('--capture', capture)
    gateway = make_gateway(capture=capture, family=stripes_family)
    with lab.listen('server', family) as one, lab.listen('server', family) as other:
        for address in addresses_of(family):
            for listener in (one, other):
                client, server = sockets(*gateway.pair(listener, address=address))
                assert server.getsockname()[:2] == client.getpeername()[:2]
                exchange(client, server, noise(100_000, 1), noise(100_000, 2))
    counters = gateway.proxy.counters()
    assert counters['flows_total'] == 4
    assert counters['conntrack_missing'] == counters['conntrack_failed'] == 0


@pytest.mark.parametrize('capture', ['tproxy', 'redirect'])
@pytest.mark.parametrize('family', [4, 6])
def test_client_on_the_proxy_s_own_port(make_gateway, capture_with, lab, sockets, capture, family):
    """Reset, and no loop: the proxy does not connect to itself."""
    capture_with('--capture', capture)
    gateway = make_gateway(capture=capture)
    client = sockets(lab.socket('client', family))
    expect_reset_of_new(client, (GW_LAN[family == 6], PROXY_PORT), PROMPTLY)
    gateway.proxy.wait_counter('flows_unknown_destination', 1)
    counters = gateway.proxy.counters()
    assert (counters['flows_total'], counters['flows_now']) == (0, 0)
    assert gateway.relay.counter('flows_total') == 0
    gateway.proxy.wait_log(r'flow \d+: client .*: reset: ', PROMPTLY)


def test_flows_from_before_the_rules_go_on(make_gateway, capture_with, lab, listener, sockets):
    """They were not ours, and stay so; new ones are."""
    old = sockets(lab.socket('client'))
    old.settimeout(10)
    old.connect((lab.address('server'), listener.getsockname()[1]))
    at_server = sockets(accept(listener, through_relay=False))
    assert at_server.getpeername()[0] == lab.address('client')
    ping(old, at_server)
    gateway = make_gateway()
    capture_with()
    ping(old, at_server)
    client, server = sockets(*gateway.pair(listener))
    exchange(client, server, noise(100_000, 1), noise(100_000, 2))
    exchange(old, at_server, noise(100_000, 3), noise(100_000, 4))
    assert gateway.proxy.counter('flows_total') == 1


def test_captured_flows_survive_the_rules(make_gateway, firewall, listener, sockets):
    """`up` again under a running flow disturbs nothing."""
    gateway = make_gateway()
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    firewall.up()
    exchange(client, server, noise(1_000_000, 1), noise(1_000_000, 2))


# --- conntrack ---------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def empty_table(on_gw):
    """No conntrack entries of earlier tests: one of their clients may have had the same port."""
    on_gw('conntrack -F')


@pytest.fixture
def bare_tproxy(capture_with, on_gw):
    """TPROXY by hand, for both families, without anything of conntrack's."""
    for ip, program in (('ip -4', 'iptables'), ('ip -6', 'ip6tables')):
        add_rule(on_gw, program, 'mangle', 'PREROUTING',
                 f'-i lan0 -p tcp -j TPROXY --on-port {PROXY_PORT} --tproxy-mark 0x1/0x1')
        on_gw(f'{ip} rule add pref 100 fwmark 0x1/0x1 lookup 100',
              f'{ip} rule del pref 100 fwmark 0x1/0x1 lookup 100')
        on_gw(f'{ip} route add local default dev lo table 100',
              f'{ip} route del local default dev lo table 100')


@pytest.mark.parametrize('family', [4, 6])
def test_entry_missing_under_tproxy(make_gateway, bare_tproxy, on_gw, lab, family, sockets):
    """The socket's own address tells the destination as well."""
    program = 'iptables' if family == 4 else 'ip6tables'
    for chain in ('PREROUTING', 'OUTPUT'):
        add_rule(on_gw, program, 'raw', chain, '-j CT --notrack')
    gateway = make_gateway()
    with lab.listen('server', family) as listener:
        client, server = sockets(*gateway.pair(listener))
        assert server.getsockname()[:2] == client.getpeername()[:2]
        exchange(client, server, noise(100_000, 1), noise(100_000, 2))
    gateway.proxy.wait_counter('conntrack_missing', 1, 5)


def test_own_port_without_an_entry(make_gateway, bare_tproxy, on_gw, lab, sockets):
    """Here the rules capture even this, and conntrack knows nothing: still no loop."""
    add_rule(on_gw, 'iptables', 'raw', 'PREROUTING', '-j CT --notrack')
    gateway = make_gateway()
    client = sockets(lab.socket('client'))
    expect_reset_of_new(client, (GW_LAN[0], PROXY_PORT), PROMPTLY)
    assert gateway.proxy.counter('flows_total') == 0


@pytest.mark.parametrize('family', [4, 6])
def test_entry_missing_under_redirect(make_gateway, capture_with, lab, sockets, family):
    """Asked for in a zone where it isn't: nothing else tells the destination, so reset."""
    capture_with('--capture', 'redirect')
    gateway = make_gateway(capture='redirect', proxy=['--conntrack-zone', '7'])
    client = sockets(lab.socket('client', family))
    expect_reset_of_new(client, (lab.address('server', family), 80), PROMPTLY)
    gateway.proxy.wait_counter('conntrack_missing', 1, 5)
    gateway.proxy.wait_counter('flows_unknown_destination', 1, 5)
    gateway.proxy.wait_log(r'flow \d+: client .* reset: conntrack', PROMPTLY)


@pytest.mark.parametrize('capture', ['tproxy', 'redirect'])
@pytest.mark.parametrize('family', [4, 6])
def test_zone(make_gateway, capture_with, on_gw, lab, sockets, capture, family):
    program = 'iptables' if family == 4 else 'ip6tables'
    add_rule(on_gw, program, 'raw', 'PREROUTING', '-i lan0 -j CT --zone 7')
    add_rule(on_gw, program, 'raw', 'OUTPUT', '-o lan0 -j CT --zone 7')
    capture_with('--capture', capture)
    gateway = make_gateway(capture=capture, proxy=['--conntrack-zone', '7'])
    with lab.listen('server', family) as listener:
        client, server = sockets(*gateway.pair(listener))
        exchange(client, server, noise(100_000, 1), noise(100_000, 2))
    gateway.proxy.wait_counter('conntrack_missing', 0, 5)


def test_flush_of_conntrack(make_gateway, firewall, on_gw, listener, sockets):
    """A flow goes on when somebody empties the table under it."""
    gateway = make_gateway()
    client, server = sockets(*gateway.pair(listener))
    ping(client, server)
    on_gw('conntrack -F')
    server.sendall(b'still there')
    assert receive_exactly(client, 11) == b'still there'
    exchange(client, server, noise(1_000_000, 1), noise(1_000_000, 2))


@pytest.fixture
def slow_conntrack(folder, program):
    """(words before the proxy's command, a file: while it exists, conntrack gives no answer)."""
    if is_sanitized(program):
        pytest.skip("a sanitizer's library must be loaded before any other")
    library, file = folder / 'slow_conntrack.so', folder / 'slow'
    source = pathlib.Path(__file__).with_name('slow_conntrack.c')
    subprocess.run(['cc', '-shared', '-fPIC', '-o', library, source], check=True)
    return ['env', f'LD_PRELOAD={library}', f'SLOW_CONNTRACK={file}'], file


@pytest.mark.parametrize('capture', ['tproxy', 'redirect'])
def test_slow_conntrack(make_gateway, capture_with, slow_conntrack, listener, sockets, capture):
    """Nobody else waits; a late answer is as good; one that is too late is as if there were none."""
    capture_with('--capture', capture)
    gateway = make_gateway(capture=capture, workers=1)
    gateway.proxy.stop()
    under, slow = slow_conntrack
    gateway.start_proxy(under=under)
    steady = sockets(*gateway.pair(listener))

    slow.touch()
    client = sockets(gateway.client(listener))
    client.sendall(b'waits')
    ping(*steady)
    slow.unlink()
    server = sockets(accept(listener))
    assert receive_exactly(server, 5) == b'waits'
    counters = gateway.proxy.counters()
    assert (counters['flows_total'], counters['conntrack_failed']) == (2, 0)

    slow.touch()
    client = sockets(gateway.client(listener))
    gateway.proxy.wait_counter('conntrack_failed', 1, 10)
    if capture == 'redirect':
        expect_reset(client, PROMPTLY)
    else:
        ping(client, sockets(accept(listener)))
    slow.unlink()
    ping(*sockets(*gateway.pair(listener)))
    ping(*steady)
