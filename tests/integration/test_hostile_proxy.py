# SPDX-License-Identifier: ISC
"""The relay against a proxy that breaks the extended protocol, in every state that it can be in.

Each case ends its stripe or its group, with a reason in the log, and nothing else: one innocent
flow runs beside all of them, and the relay serves them all in one life.
"""

import contextlib
import os
import socket
import struct

import extended_speaker as x
import pytest
from conftest import STARTED, Starter
from harness import RELAY_PORT, accept
from traffic import (check_same, expect_error_unread, expect_reset, noise,
                     receive_all, receive_exactly)

PROMPTLY = 2
HELLO = x.hello()


class Scene:
    """The relay, a way to it, a server, and the innocent flow."""

    def __init__(self, lab, folder, programs):
        self.lab = lab
        self.starter = Starter(lab, folder)
        programs.append(self.starter.programs)
        self.relay = self.starter('relay', 'relay', '--insecure', '--workers', '2', '--verbose')
        self.listener = lab.listen('server')
        self.destination = (lab.address('server'), self.listener.getsockname()[1])
        self.proxy = x.Proxy(self.connect)
        self.group, self.server = self.open(2)
        self.checks = 0

    def connect(self):
        sock = self.lab.socket('gw')
        sock.settimeout(PROMPTLY)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((self.lab.address('relay'), RELAY_PORT))
        return sock

    def open(self, stripes=1):
        group = self.proxy.open(self.destination, stripes)
        return group, accept(self.listener)

    def check_innocent(self):
        self.checks += 1
        self.group.send(noise(300, self.checks))
        check_same(receive_exactly(self.server, 300), noise(300, self.checks))
        self.server.sendall(noise(300, self.checks + 1))
        check_same(self.group.receive(300), noise(300, self.checks + 1))
        assert self.relay.running()

    def close(self):
        self.group.close()
        self.server.close()
        self.listener.close()
        self.relay.wait_idle()
        self.starter.end()


@pytest.fixture(scope='module')
def scene_of_module(standing_lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp('relay')
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    scene = Scene(standing_lab, folder, [])
    yield scene
    scene.close()


@pytest.fixture
def scene(scene_of_module, lab, request):
    request.node.stash[STARTED] = scene_of_module.starter.programs
    yield scene_of_module
    scene_of_module.check_innocent()
    scene_of_module.relay.wait_counter('flows_now', 1)  # the innocent one


def ends(sock):
    """True if the relay ends the connection, one way or the other; what comes before is dropped."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


# --- before the greeting is over ----------------------------------------------------------------

BAD_GREETINGS = {
    'nothing': b'',
    'one byte': HELLO[:1],
    'half a word': HELLO[:2],
    'a word': HELLO[:4],
    'all but a byte': HELLO[:-1],
    'base protocol, first stripe': bytes(4),
    'base protocol, further stripe': struct.pack('!I', 0x12345678),
    'largest base number': struct.pack('!I', 0xfffeffff),
    'lowest extension': x.hello(extension=0xffff0000),
    'next extension': x.hello(extension=0xffff0002),
    'highest extension': x.hello(extension=0xffffffff),
    'version 0': x.hello(version=0),
    'HTTP': b'GET / HTTP/1.1\r\nHost: relay.example.net\r\nUser-Agent: somebody\r\n\r\n',
    'TLS': bytes.fromhex('16030100c8010000c40303') + bytes(190),
    'SSH': b'SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u6\r\n' + bytes(40),
    'noise': noise(4096),
    'zeros': bytes(4096),
}


@pytest.mark.parametrize('greeting', BAD_GREETINGS.values(), ids=BAD_GREETINGS)
def test_bad_greeting(scene, greeting):
    accepted = scene.relay.counter('stripes_total')
    with scene.connect() as sock:
        sock.sendall(greeting)
        with contextlib.suppress(OSError):  # the relay was quicker
            sock.shutdown(socket.SHUT_WR)
        assert ends(sock)
    scene.relay.wait_counter('stripes_now', 2)
    assert scene.relay.counter('flows_total') >= 1
    assert scene.relay.counter('stripes_total') <= accepted + 1


@pytest.mark.parametrize('greeting', [g for n, g in BAD_GREETINGS.items()
                                      if len(g) >= 4 and n not in ('a word', 'all but a byte')],
                         ids=[n for n, g in BAD_GREETINGS.items()
                              if len(g) >= 4 and n not in ('a word', 'all but a byte')])
def test_bad_greeting_is_ended_by_the_relay(scene, greeting):
    """It doesn't wait for the other to hang up, and says nothing."""
    with scene.connect() as sock:
        sock.sendall(greeting)
        try:
            assert sock.recv(65536) == b''
        except ConnectionResetError:
            pass


def test_wrong_proof(scene):
    refused = scene.relay.counter('greetings_refused')
    with scene.connect() as sock:
        sock.sendall(HELLO)
        x.receive_exactly(sock, 76)
        sock.sendall(os.urandom(32))
        try:
            assert sock.recv(1) == b''
        except ConnectionResetError:
            pass
    scene.relay.wait_counter('greetings_refused', refused + 1)


def test_half_a_proof(scene):
    with scene.connect() as sock:
        sock.sendall(HELLO)
        answer = x.receive_exactly(sock, 76)
        sock.sendall(x.proof(x.NO_KEY[1], HELLO, answer)[:31])
        sock.shutdown(socket.SHUT_WR)
        assert ends(sock)


def test_greeting_in_crumbs(scene):
    with scene.connect() as sock:
        for byte in HELLO:
            sock.sendall(bytes([byte]))
        answer = x.receive_exactly(sock, 76)
        for byte in x.proof(x.NO_KEY[1], HELLO, answer):
            sock.sendall(bytes([byte]))
        x.Stripe(sock).ping()


@pytest.mark.parametrize('version, features', [(2, 0), (0xffff, 0), (1, 0xffffffff),
                                               (1, 0xfffffffe)])
def test_later_version_is_talked_down(scene, version, features):
    """A proxy from the future is served with what both know."""
    with scene.connect() as sock:
        greeting = x.hello(version=version, features=features)
        sock.sendall(greeting)
        answer = x.receive_exactly(sock, 76)
        assert struct.unpack('!IHHI', answer[:12]) == (x.EXTENSION, 1, 0, features & x.PARITY)
        sock.sendall(x.proof(x.NO_KEY[1], greeting, answer))
        x.Stripe(sock).ping()


@pytest.mark.slow
def test_silence(scene):
    """Who stops in the middle of the greeting is not waited for longer than a while."""
    stages = []
    for text in (b'', HELLO[:1], HELLO[:40], HELLO):
        sock = scene.connect()
        sock.sendall(text)
        if text == HELLO:
            x.receive_exactly(sock, 76)
        sock.settimeout(20)
        stages.append(sock)
    for sock in stages:
        assert ends(sock)
        sock.close()
    scene.relay.wait_counter('stripes_now', 2)


# --- on an idle stripe ---------------------------------------------------------------------------

TOKEN = bytes(range(16))
SOMEWHERE = ('10.77.3.2', 80)
GOOD_ENDPOINT = x.endpoint(*SOMEWHERE)

BAD_WHEN_IDLE = {
    'data': x.datagram(1, b'data'),
    'empty data': x.datagram(1, b''),
    'serial 0, size 0': x.datagram(0, b''),
    'size 3': x.datagram(0, b'\0\4\0'),
    'size 129': x.control(0x8001, bytes(125)),
    'size 2^32-1': x.datagram(0, b'', size=0xffffffff),
    'type 0': x.control(0),
    'unknown mandatory type': x.control(11),
    'highest mandatory type': x.control(0x7fff),
    'Number': x.number(5),
    'Connected': x.control(x.CONNECTED),
    'Failed': x.failed(x.REFUSED),
    'Fin': x.fin(0),
    'Reset': x.reset(),
    'Detach': x.control(x.DETACH),
    'short Join': x.control(x.JOIN, TOKEN[:-1]),
    'long Join': x.control(x.JOIN, TOKEN + b'\0'),
    'short Ping': x.control(x.PING, bytes(7)),
    'Open without endpoints': x.control(x.OPEN, TOKEN),
    'short Open': x.control(x.OPEN, TOKEN + GOOD_ENDPOINT + GOOD_ENDPOINT[:-1]),
    'Open, family 5': x.control(x.OPEN, TOKEN + b'\5' + GOOD_ENDPOINT[1:] + GOOD_ENDPOINT),
    'Open, family 0': x.control(x.OPEN, TOKEN + b'\0' + GOOD_ENDPOINT[1:] + GOOD_ENDPOINT),
    'Open, port 0': x.control(x.OPEN, TOKEN + x.endpoint('10.77.3.2', 0) + GOOD_ENDPOINT),
    'Open, dirt behind IPv4': x.control(x.OPEN, TOKEN + GOOD_ENDPOINT[:-1] + b'\1' + GOOD_ENDPOINT),
    'Open, bad client': x.control(x.OPEN, TOKEN + GOOD_ENDPOINT + b'\7' + GOOD_ENDPOINT[1:]),
}


@pytest.mark.parametrize('message', BAD_WHEN_IDLE.values(), ids=BAD_WHEN_IDLE)
def test_bad_on_an_idle_stripe(scene, message):
    stripe = scene.proxy.dial()
    stripe.send(message)
    assert ends(stripe.sock)
    stripe.close()


@pytest.mark.parametrize('cut', [1, 7, 8, 11, 40])
def test_cut_short_on_an_idle_stripe(scene, cut):
    stripe = scene.proxy.dial()
    stripe.send(x.open_group(os.urandom(16), SOMEWHERE)[:cut])
    stripe.sock.shutdown(socket.SHUT_WR)
    assert ends(stripe.sock)
    stripe.close()


@pytest.mark.parametrize('message', [
    x.control(0x8000), x.control(0x8002, b'from a later version'), x.control(0xffff, bytes(124))],
    ids=['empty', 'some', 'largest'])
def test_unknown_optional_is_skipped(scene, message):
    stripe = scene.proxy.dial()
    stripe.send(message, message)
    stripe.ping()
    stripe.close()
    group, server = scene.open()
    group.stripes[0].send(message)
    group.send(b'goes on')
    check_same(receive_exactly(server, 7), b'goes on')
    group.close()
    server.close()


def test_control_in_crumbs(scene):
    stripe = scene.proxy.dial()
    for byte in x.control(x.PING, b'8 bytes!'):
        stripe.send(bytes([byte]))
    assert stripe.expect(x.PONG).body == b'8 bytes!'
    stripe.close()


@pytest.mark.slow
def test_flood_of_pings_without_reading(scene):
    """The relay's answers pile up only so far; then that stripe has to go, or to wait."""
    stripe = scene.proxy.dial()
    stripe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flood = x.control(x.PING, b'8 bytes!') * 10_000
    try:
        for _ in range(400):
            stripe.send(flood)
    except (TimeoutError, ConnectionError):
        pass
    scene.check_innocent()
    stripe.close()


@pytest.mark.slow
def test_join_of_an_unknown_group(scene):
    stripe = scene.proxy.dial()
    stripe.sock.settimeout(10)
    stripe.send(x.join(os.urandom(16)))
    assert stripe.expect(x.NUMBER).numbers() == (0, x.NO_SUCH_GROUP)
    stripe.close()


@pytest.mark.slow
def test_join_before_open(scene):
    """It is held until the Open comes."""
    token = os.urandom(16)
    joining, opening = scene.proxy.dial(), scene.proxy.dial()
    joining.send(x.join(token))
    joining.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        joining.read()
    joining.sock.settimeout(PROMPTLY)
    opening.send(x.open_group(token, scene.destination))
    value, reason = opening.expect(x.NUMBER).numbers()
    assert value and reason == x.NONE
    server = accept(scene.listener)
    assert joining.expect(x.NUMBER).numbers() == (value, x.NONE)
    joining.send(x.datagram(1, b'by the early one'))
    check_same(receive_exactly(server, 16), b'by the early one')
    for each in (joining, opening, server):
        each.close()


def test_join_of_a_group_that_has_ended(scene):
    """It was lost on its way, and all it carries has come otherwise: it is as if it had just made it."""
    group, server = scene.open()
    group.send(b'all there is')
    group.end_sending()
    check_same(receive_all(server), b'all there is')
    server.close()
    check_same(group.receive_all(), b'')
    late = scene.proxy.dial()
    late.send(x.join(group.token), x.datagram(1, b'all there is'))
    for stripe in group.detach():
        stripe.close()
    assert late.expect(x.NUMBER).numbers() == (group.connection_number, x.NONE)
    late.expect(x.DETACH)
    late.send(x.control(x.DETACH))
    late.send(x.open_group(os.urandom(16), scene.destination))
    value, _ = late.expect(x.NUMBER).numbers()
    assert value
    accept(scene.listener).close()
    late.close()


def test_detach_of_an_early_join(scene):
    """Answered with Detach alone: and then the stripe is idle, and as good as new."""
    stripe = scene.proxy.dial()
    stripe.send(x.join(os.urandom(16)), x.control(x.DETACH))
    stripe.expect(x.DETACH)
    stripe.ping()
    stripe.close()


# --- in a group --------------------------------------------------------------------------------

def group_attacks():
    """Each of these, on a group of two stripes with nothing sent yet, must end it as a reset."""
    def control_message(message):
        return lambda group: group.stripes[0].send(message)

    def on_both(first, second):
        def attack(group):
            group.stripes[0].send(first)
            group.stripes[1].send(second)
        return attack

    def cut(message):
        def attack(group):
            group.stripes[0].send(message)
            group.stripes[0].sock.shutdown(socket.SHUT_WR)
        return attack

    a, b = x.datagram(1, b'a'), x.datagram(2, b'b')
    return {
        'unknown mandatory type': control_message(x.control(11)),
        'size 3': control_message(x.datagram(0, b'\0\4\0')),
        'size 129': control_message(x.control(0x8001, bytes(125))),
        'Open again': lambda group: group.stripes[0].send(x.open_group(group.token, SOMEWHERE)),
        'Open of another': control_message(x.open_group(TOKEN, SOMEWHERE)),
        'Join again': lambda group: group.stripes[1].send(x.join(group.token)),
        'Join of another': control_message(x.join(TOKEN)),
        'Number': control_message(x.number(5)),
        'Connected': control_message(x.control(x.CONNECTED)),
        'Failed': control_message(x.failed(x.REFUSED)),
        'same serial again': control_message(a + a),
        'same serial with another size': on_both(b, x.datagram(2, b'bb')),
        'falling serial': on_both(b + a, a),
        'far ahead': control_message(x.datagram(1 + (1 << 31), b'a')),
        'very far ahead': control_message(x.datagram(0xffffffff, b'a')),
        'datagram over 1 MiB': control_message(x.datagram(1, b'a', size=(1 << 20) + 1)),
        'datagram of 4 GiB': control_message(x.datagram(1, b'a', size=0xffffffff)),
        'datagram over 1 MiB, not due': control_message(x.datagram(2, b'a', size=(1 << 20) + 1)),
        'Fin twice': control_message(x.fin(5) + x.fin(5)),
        'Fin twice, on two stripes': on_both(x.fin(5), x.fin(5)),
        'Fin below what came': control_message(a + b + x.fin(1)),
        'Fin 0 after data': control_message(a + x.fin(0)),
        'Fin far ahead': control_message(x.fin(0xfffffff0)),
        'data beyond Fin, not due': on_both(x.fin(2), x.datagram(3, b'c')),
        'cut in a header': cut(a[:5]),
        'cut in a datagram': cut(x.datagram(1, b'half', size=9)),
        'cut in a control': cut(x.fin(0)[:9]),
        'cut between datagrams': cut(a),
        'Reset': control_message(x.reset()),
        'Reset, unknown reason': control_message(x.reset(reason=12345)),
    }


@pytest.mark.parametrize('attack', group_attacks().values(), ids=group_attacks())
def test_bad_in_a_group(scene, attack):
    group, server = scene.open(2)
    mark = scene.relay.mark()
    attack(group)
    expect_reset(server, PROMPTLY)
    scene.relay.wait_log(r'flow \d+: .*ended: \S', PROMPTLY, mark)
    server.close()
    group.close()


@pytest.mark.parametrize('stripe', [0, 1], ids=['on the same stripe', 'on another stripe'])
def test_data_after_fin(scene, stripe):
    """The server may have seen the half-close by then: but it is reset after that."""
    for _ in range(20):  # on another stripe they race: the relay must notice, whichever is first
        group, server = scene.open(2)
        mark = scene.relay.mark()
        group.stripes[0].send(x.datagram(1, b'a'), x.fin(1))
        group.stripes[stripe].send(x.datagram(2, b'b'))
        expect_error_unread(server, PROMPTLY)
        scene.relay.wait_log(r'flow \d+: .*ended: \S', PROMPTLY, mark)
        assert scene.relay.running()
        server.close()
        group.close()


def test_reset_lets_data_before_it_pass(scene):
    group, server = scene.open(2)
    group.stripes[1].send(x.reset(serial=2))
    group.stripes[0].send(x.datagram(1, b'before '), x.datagram(2, b'it'))
    assert expect_reset(server, PROMPTLY) == b'before it'
    group.close()
    server.close()


def test_open_with_the_token_of_another_group(scene):
    """The token is taken: that group goes on, whatever becomes of the newcomer."""
    group, server = scene.open()
    stripe = scene.proxy.dial()
    stripe.send(x.open_group(group.token, scene.destination))
    try:
        message = stripe.read()
        assert message is None or message.numbers()[0] == 0
    except ConnectionResetError:
        pass
    group.send(b'mine')
    check_same(receive_exactly(server, 4), b'mine')
    for each in (stripe, group, server):
        each.close()


def test_stripe_goes_from_flow_to_flow(scene):
    """After Fin both ways and Detach the same stripes carry the next flow."""
    group, server = scene.open(2)
    for i in range(20):
        group.send(noise(5000, i), size=700)
        group.end_sending()
        check_same(receive_all(server), noise(5000, i))
        server.sendall(noise(3000, i))
        server.close()
        check_same(group.receive_all(), noise(3000, i))
        stripes = group.detach()
        group = x.Group(os.urandom(16), *stripes)
        stripes[0].send(x.open_group(group.token, scene.destination))
        stripes[1].send(x.join(group.token))
        while group.numbered < 2 or not group.connected:
            group.read_some()
        server = accept(scene.listener)
    group.close()
    server.close()


def test_reset_leaves_the_stripes(scene):
    """A reset costs a group its life, but not its stripes."""
    group, server = scene.open(2)
    group.stripes[0].send(x.reset())
    expect_reset(server, PROMPTLY)
    stripes = group.detach()
    for stripe in stripes:
        stripe.ping()
        stripe.close()
    server.close()


@pytest.mark.parametrize('stripes', [1, 2])
def test_refusal_leaves_the_stripes(scene, stripes):
    with scene.lab.listen('server') as nobody:
        port = nobody.getsockname()[1]
    greeted = [scene.proxy.dial() for _ in range(stripes)]
    token = os.urandom(16)
    destination = (scene.lab.address('server'), port)
    greeted[0].send(x.open_group(token, destination), x.datagram(1, b'early'))
    value, _ = greeted[0].expect(x.NUMBER).numbers()
    assert value
    assert greeted[0].expect(x.FAILED).numbers() == (x.REFUSED,)
    greeted[0].send(x.control(x.DETACH))
    greeted[0].expect(x.DETACH)
    for stripe in greeted:
        stripe.ping()
        stripe.close()
