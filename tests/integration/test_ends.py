# SPDX-License-Identifier: ISC
"""How flows begin and end: half-closes as half-closes, resets as resets."""

import socket
import time

import pytest
from harness import SILENT, UNREACHABLE, accept, wait_for
from traffic import (MIB, check_same, close_with_reset, expect_error_unread, expect_reset,
                     expect_reset_of_new, noise, ping, receive_all, receive_exactly, send_all,
                     send_until_stuck, together)

PROMPTLY = 2   # seconds for a reset that nothing stands in the way of
STUCK = 5      # for one behind data that nobody reads: the protocol gives up after 2 seconds


def in_direction(direction, client, server):
    """(who acts, who sees it)"""
    return (client, server) if direction == 'client' else (server, client)


@pytest.mark.parametrize('who', ['client', 'server'])
def test_half_close(gateway, who, listener, sockets):
    """One end has said all it had to say; the other goes on for 10 MB."""
    first, other = in_direction(who, *sockets(*gateway.pair(listener)))
    send_all(first, b'that was all')
    check_same(receive_all(other), b'that was all')
    answer = noise(10 * MIB)
    _, got = together((send_all, other, answer), (receive_all, first))
    check_same(got, answer)


@pytest.mark.parametrize('who', ['client', 'server'])
def test_half_close_while_the_other_sends(gateway, who, listener, sockets):
    """The half-close comes in the middle of the other direction's data, and hurts none of it."""
    first, other = in_direction(who, *sockets(*gateway.pair(listener)))
    data = noise(10 * MIB)

    def shut_in_the_middle():
        got = receive_exactly(first, 3 * MIB)
        send_all(first, b'enough')
        return got + receive_all(first)

    _, got, last_words = together((send_all, other, data), (shut_in_the_middle,),
                                  (receive_all, other))
    check_same(got, data)
    check_same(last_words, b'enough')


@pytest.mark.parametrize('who', ['client', 'server'])
def test_reset(gateway, who, listener, sockets):
    actor, witness = in_direction(who, *sockets(*gateway.pair(listener)))
    ping(actor, witness)
    close_with_reset(actor)
    assert expect_reset(witness, PROMPTLY) == b''
    for daemon in gateway.daemons():
        daemon.wait_counter('flows_reset', 1)


@pytest.mark.parametrize('who', ['client', 'server'])
def test_reset_before_any_data(gateway, who, listener, sockets):
    actor, witness = in_direction(who, *sockets(*gateway.pair(listener)))
    close_with_reset(actor)
    assert expect_reset(witness, PROMPTLY) == b''


@pytest.mark.parametrize('who', ['client', 'server'])
def test_reset_after_half_close(gateway, who, listener, sockets):
    """The end that has half-closed resets while the other still sends."""
    actor, witness = in_direction(who, *sockets(*gateway.pair(listener)))
    send_all(actor, b'end')
    check_same(receive_all(witness), b'end')
    witness.sendall(b'one more thing')
    check_same(receive_exactly(actor, 14), b'one more thing')
    close_with_reset(actor)
    expect_error_unread(witness, PROMPTLY)


@pytest.mark.parametrize('who', ['client', 'server'])
def test_reset_by_the_sender_of_stuck_data(gateway, who, listener, sockets):
    """10 MB are on their way to an end that isn't reading."""
    actor, witness = in_direction(who, *sockets(*gateway.pair(listener)))
    assert send_until_stuck(actor, noise(64 * MIB)) > 10 * MIB
    close_with_reset(actor)
    expect_error_unread(witness, STUCK)


@pytest.mark.parametrize('who', ['client', 'server'])
def test_reset_by_who_does_not_read(gateway, who, listener, sockets):
    actor, witness = in_direction(who, *sockets(*gateway.pair(listener)))
    assert send_until_stuck(witness, noise(64 * MIB)) > 10 * MIB
    close_with_reset(actor)
    expect_error_unread(witness, STUCK)


def test_close_without_reading(gateway, listener, sockets):
    """The client goes away with data unread: its kernel resets, and so must the server hear it."""
    client, server = sockets(*gateway.pair(listener))
    server.sendall(noise(MIB))
    receive_exactly(client, 1)
    client.close()
    expect_error_unread(server, PROMPTLY)


@pytest.mark.parametrize('family', [4, 6])
def test_refused(gateway, lab, family, sockets):
    with lab.listen('server', family) as nobody:
        client = sockets(lab.socket('client', family))
        address = (lab.address('server', family), nobody.getsockname()[1])
    expect_reset_of_new(client, address, PROMPTLY)
    gateway.proxy.wait_log(rf'client \S+ -> \S*:{address[1]}: refused', PROMPTLY)
    gateway.proxy.wait_counter('flows_refused', 1)


@pytest.mark.parametrize('family', [4, 6])
def test_refused_with_early_data(gateway, lab, family, sockets):
    """The client has sent its request at once, as any program does."""
    with lab.listen('server', family) as nobody:
        client = sockets(lab.socket('client', family))
        address = (lab.address('server', family), nobody.getsockname()[1])
    client.settimeout(PROMPTLY)
    with pytest.raises(ConnectionError):
        client.connect(address)
        client.sendall(noise(100_000))
        receive_all(client)


@pytest.mark.parametrize('address', UNREACHABLE)
def test_unreachable(gateway, lab, address, sockets):
    client = sockets(lab.socket('client', 6 if ':' in address else 4))
    expect_reset_of_new(client, (address, 80), PROMPTLY)
    gateway.proxy.wait_log(r'client \S+ -> \S*:80: refused: .*(no route|unreachable)', PROMPTLY)


@pytest.mark.parametrize('address', SILENT)
def test_timed_out(make_gateway, lab, mode, address, sockets):
    gateway = make_gateway(mode=mode, relay=['--connect-timeout', '2'])
    client = sockets(lab.socket('client', 6 if ':' in address else 4))
    client.settimeout(PROMPTLY)
    client.connect((address, 80))
    start = time.monotonic()
    assert expect_reset(client, 2 + PROMPTLY) == b''
    assert time.monotonic() - start > 1.5, 'it did not wait for the server'
    gateway.proxy.wait_log(r'client \S+ -> \S*:80: refused: .*(timed out|did not answer)', PROMPTLY)


def test_no_stripe_for_what_is_sent_already(make_gateway, listener, sockets):
    """A client is slow to take the last of it: new stripes could bring it nothing."""
    gateway = make_gateway(stripes=8, proxy=['--pool', '0:0'])
    client, server = sockets(*gateway.pair(listener))
    gateway.proxy.wait_counter('stripes_now', 8)
    client.shutdown(socket.SHUT_WR)
    data = noise(3 * MIB // 2)
    server.sendall(data)
    server.close()
    gateway.relay.wait_counter('flows_finished', 1)
    wait_for('stripes to leave', lambda: gateway.proxy.counter('stripes_now') < 8)
    time.sleep(1.2)  # the proxy looks at its flows twice a second
    assert gateway.proxy.counter('flows_now') == 1, 'all was delivered already'
    assert gateway.relay.counter('stripes_total') == 8
    check_same(receive_all(client), data)


def test_server_greets_first(gateway, listener, sockets):
    client, server = sockets(*gateway.pair(listener))
    server.sendall(b'220 ready\r\n')
    check_same(receive_exactly(client, 11), b'220 ready\r\n')
    ping(client, server)


def test_client_never_sends(gateway, listener, sockets):
    client, server = sockets(*gateway.pair(listener))
    send_all(server, noise(MIB))
    check_same(receive_all(client), noise(MIB))
    client.close()
    assert receive_all(server) == b''


def test_nobody_sends(gateway, listener, sockets):
    client, server = sockets(*gateway.pair(listener))
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b''
    server.close()
    assert receive_all(client) == b''
    gateway.proxy.wait_counter('flows_finished', 1)


def test_urgent_close_of_both(gateway, listener, sockets):
    """Both ends close at the same moment, each after its last bytes."""
    for _ in range(50):
        client, server = sockets(*gateway.pair(listener))
        send_all(client, b'bye')
        send_all(server, b'bye')
        check_same(receive_all(client), b'bye')
        check_same(receive_all(server), b'bye')
        client.close()
        server.close()
    gateway.proxy.wait_counter('flows_finished', 50)


def test_pipelined_connections_keep_apart(gateway, listener, sockets):
    """Flows that share stripes one after the other never see each other's bytes."""
    for i in range(40):
        client = sockets(gateway.client(listener))
        client.sendall(noise(50_000, i))
        server = sockets(accept(listener))
        check_same(receive_exactly(server, 50_000), noise(50_000, i))
        if i % 2:
            close_with_reset(client)
        else:
            client.close()
        server.close()
