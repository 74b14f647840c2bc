# SPDX-License-Identifier: ISC
"""The proxy against a relay that breaks the extended protocol.

The client of the flow in question is reset, never given a clean end, and nothing else happens: one
innocent flow runs beside all cases, and the proxy stands all of them in one life.
"""

import socket
import time

import extended_speaker as x
import pytest
from conftest import STARTED, Starter
from harness import RELAY_PORT, wait_for
from traffic import (check_same, expect_error_unread, expect_reset, expect_reset_of_new, noise,
                     receive_all, receive_exactly, together)

PROMPTLY = 2
PORT = 8080


class Scene:
    """The proxy without a pool, so that each stripe is for a flow; and a relay for it to find."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.starter = Starter(lab, folder)
        self.relay = x.Relay(lab.listen('relay', 4, RELAY_PORT), timeout=10)
        self.proxy = self.starter('gw', 'proxy', '--relay', lab.address('relay'),
                                  '--stripes', '2:2', '--pool', '0:0', '--workers', '2',
                                  '--verbose')
        # Both stripes: one that is still being dialled would come to the next flow, past its test.
        self.client, self.group = self.open(2)
        assert self.group.destination == (lab.address('server'), PORT)
        self.checks = 0

    def connect(self):
        client = self.lab.socket('client')
        client.settimeout(10)
        client.connect((self.lab.address('server'), PORT))
        return client

    def open(self, stripes=1, answer=True):
        """A client and its group. More than one stripe it gets by moving data: all read by then."""
        self.relay.answer = answer
        client = self.connect()
        group = self.relay.wait_group(client.getsockname())
        deadline = time.monotonic() + 10
        while len(group.stripes) < stripes:
            assert time.monotonic() < deadline, f'the flow does not come to {stripes} stripes'
            client.sendall(noise(65536))
            check_same(group.receive(65536), noise(65536))
        return client, group

    def check_innocent(self):
        self.checks += 1
        self.client.sendall(noise(300, self.checks))
        check_same(self.group.receive(300), noise(300, self.checks))
        self.group.send(noise(300, self.checks + 1))
        check_same(receive_exactly(self.client, 300), noise(300, self.checks + 1))
        assert self.proxy.running()

    def close(self):
        self.client.close()
        for group in self.relay.groups:  # some got a stripe when their test was over
            group.close()
        self.proxy.wait_idle()
        self.starter.end()
        self.relay.close()


@pytest.fixture(scope='module')
def scene_of_module(standing_lab, standing_firewall, tmp_path_factory):
    standing_firewall.usual()
    folder = tmp_path_factory.mktemp('proxy')
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    scene = Scene(standing_lab, folder)
    yield scene
    scene.close()


@pytest.fixture
def scene(scene_of_module, lab, request):
    request.node.stash[STARTED] = scene_of_module.starter.programs
    relay = scene_of_module.relay
    greet = relay.greet
    yield scene_of_module
    relay.greet, relay.answer = greet, True
    scene_of_module.check_innocent()
    scene_of_module.proxy.wait_counter('flows_now', 1)  # the innocent one


# --- greeting ----------------------------------------------------------------------------------

def bad_greetings():
    """What the relay answers to the Hello."""
    secret = x.NO_KEY[1]
    return {
        'nothing': lambda hello: b'',
        'half': lambda hello: x.challenge(secret, hello)[:40],
        'base number': lambda hello: b'\0\0\0\7',
        'another extension': lambda hello: x.challenge(secret, hello, extension=0xffff0002),
        'version 0': lambda hello: x.challenge(secret, hello, version=0),
        'version above the offer': lambda hello: x.challenge(secret, hello, version=2),
        'features not offered': lambda hello: x.challenge(secret, hello, features=2),
        'another key': lambda hello: x.challenge(b'k' * 32, hello),
        'proof of another Hello': lambda hello: x.challenge(secret, x.hello()),
        'the Hello again': lambda hello: hello + hello[:24],
        'zeros': lambda hello: bytes(76),
        'noise': lambda hello: noise(4096),
    }


@pytest.mark.parametrize('answer', bad_greetings().values(), ids=bad_greetings())
def test_bad_greeting(scene, answer):
    """The proxy gives the stripe up, and its client after that; its Proof is not for this relay."""
    mark = scene.proxy.mark()
    said = []

    def greet(sock):
        sock.settimeout(10)
        text = answer(x.receive_exactly(sock, 52))
        sock.sendall(text)
        if len(text) >= 76:
            said.append(sock.recv(32))
        raise x.Broken('that was all')

    scene.relay.greet = greet
    with scene.lab.socket('client') as client:
        expect_reset_of_new(client, (scene.lab.address('server'), PORT), PROMPTLY)
    scene.proxy.wait_log(r'flow \d+: client .* no way to the relay: \S', PROMPTLY, mark)
    assert not any(said), 'the proxy went on greeting'


# --- what it may not say -------------------------------------------------------------------------

def refusals():
    return {
        'Number 0, overloaded': x.number(0, x.OVERLOADED),
        'Number 0, unknown reason': x.number(0, 4711),
        'Number 0, no reason': x.number(0, 0),
        'Failed, refused': x.number(7) + x.failed(x.REFUSED),
        'Failed, unknown reason': x.number(7) + x.failed(4711),
        'Failed before Number': x.failed(x.FORBIDDEN),
    }


@pytest.mark.parametrize('message', refusals().values(), ids=refusals())
@pytest.mark.parametrize('early', [b'', b'early data'], ids=['silent client', 'early data'])
def test_refusal(scene, message, early):
    mark = scene.proxy.mark()
    client, group = scene.open(answer=False)
    client.sendall(early)
    if early:
        check_same(group.receive(len(early)), early)
    group.stripes[0].send(message)
    assert expect_reset(client, PROMPTLY) == b''
    scene.proxy.wait_log(r'flow \d+: client .*: refused: \S', PROMPTLY, mark)
    group.close()


def attacks():
    """Each of these, on a group that stands, must end it as a reset: {name: (stripes, attack)}."""
    def say(message):
        return 1, lambda group: group.stripes[0].send(message)

    def on_both(first, second):
        def attack(group):
            group.stripes[0].send(first)
            group.stripes[1].send(second)
        return 2, attack

    def cut(message):
        def attack(group):
            group.stripes[0].send(message)
            group.stripes[0].sock.close()
        return 1, attack

    a, b = x.datagram(1, b'a'), x.datagram(2, b'b')
    destination = x.endpoint('10.77.3.2', 80)
    return {
        'unknown mandatory type': say(x.control(11)),
        'type 0': say(x.control(0)),
        'serial 0, size 0': say(x.datagram(0, b'')),
        'size 3': say(x.datagram(0, b'\0\4\0')),
        'size 129': say(x.control(0x8001, bytes(125))),
        'Open': say(x.control(x.OPEN, bytes(16) + destination + destination)),
        'Join': say(x.join(bytes(16))),
        'another Number': say(x.number(0x7777)),
        'short Number': say(x.control(x.NUMBER, bytes(4))),
        'same serial again': say(a + a),
        'same serial with another size': on_both(b, x.datagram(2, b'bb')),
        'falling serial': on_both(b + a, a),
        'far ahead': say(x.datagram(1 + (1 << 31), b'a')),
        'very far ahead': say(x.datagram(0xffffffff, b'a')),
        'datagram over 1 MiB': say(x.datagram(1, b'a', size=(1 << 20) + 1)),
        'datagram of 4 GiB': say(x.datagram(1, b'a', size=0xffffffff)),
        'Fin twice': say(x.fin(5) + x.fin(5)),
        'Fin below what came': say(a + b + x.fin(1)),
        'Fin far ahead': say(x.fin(0xfffffff0)),
        'data beyond Fin, not due': on_both(x.fin(2), x.datagram(3, b'c')),
        'cut in a header': cut(a[:5]),
        'cut in a datagram': cut(x.datagram(1, b'half', size=9)),
        'cut in a control': cut(x.fin(0)[:9]),
        'cut between datagrams': cut(a),
        'Reset': say(x.reset()),
        'Reset, unknown reason': say(x.reset(reason=12345)),
        'late Failed': say(x.failed(x.REFUSED)),
    }


@pytest.mark.parametrize('stripes, attack', attacks().values(), ids=attacks())
def test_bad_in_a_group(scene, stripes, attack):
    client, group = scene.open(stripes)
    mark = scene.proxy.mark()
    attack(group)
    expect_reset(client, PROMPTLY)
    scene.proxy.wait_log(r'flow \d+: .*(ended|refused): \S', PROMPTLY, mark)
    client.close()
    group.close()


@pytest.mark.parametrize('stripe', [0, 1], ids=['on the same stripe', 'on another stripe'])
def test_data_after_fin(scene, stripe):
    for _ in range(20):
        client, group = scene.open(1 + stripe)
        mark = scene.proxy.mark()
        group.stripes[0].send(x.datagram(1, b'a'), x.fin(1))
        group.stripes[stripe].send(x.datagram(2, b'b'))
        expect_error_unread(client, PROMPTLY)
        scene.proxy.wait_log(r'flow \d+: .*ended: \S', PROMPTLY, mark)
        client.close()
        group.close()


# --- what it may lose ----------------------------------------------------------------------------

def test_open_is_lost(scene):
    """Nothing else has gone with it, so a new stripe opens the flow: this one is not to be lost."""
    client, lost = scene.open(answer=False)
    wait_for('the other stripe', lambda: len(lost.stripes) == 2)
    scene.relay.answer = True
    lost.close()
    group = scene.relay.wait_group(client.getsockname())
    assert group.destination == lost.destination and group.token != lost.token
    client.sendall(b'is there anybody?')
    check_same(group.receive(17), b'is there anybody?')
    group.send(b'yes')
    check_same(receive_exactly(client, 3), b'yes')
    client.close()
    group.close()


def test_open_is_lost_twice(scene):
    client, group = scene.open(answer=False)
    group.close()
    scene.relay.wait_group(client.getsockname()).close()
    assert expect_reset(client, PROMPTLY) == b''


@pytest.mark.parametrize('last_words', [x.reset(serial=0xfffffff0), x.datagram(1, b''),
                                        x.control(11)],
                         ids=['bad Reset', 'empty datagram', 'unknown mandatory type'])
def test_open_is_lost_after_an_answer(scene, last_words):
    client, group = scene.open(answer=False)
    group.stripes[0].send(last_words)
    group.stripes[0].close()
    assert expect_reset(client, PROMPTLY) == b''
    group.close()


@pytest.mark.parametrize('said', ['data', 'end'])
def test_open_is_lost_with_more(scene, said):
    """It cannot be said once more."""
    client, group = scene.open(answer=False)
    if said == 'data':
        client.sendall(b'early')
        check_same(group.receive(5), b'early')
    else:
        client.shutdown(socket.SHUT_WR)
        assert group.receive_all() == b''
    group.stripes[0].close()
    assert expect_reset(client, PROMPTLY) == b''
    group.close()


def test_open_is_lost_and_no_stripe_comes(scene):
    mark = scene.proxy.mark()
    client, group = scene.open(answer=False)
    wait_for('the other stripe', lambda: len(group.stripes) == 2)

    def hang_up(sock):
        raise x.Broken('no more')

    scene.relay.greet = hang_up
    group.close()
    assert expect_reset(client, PROMPTLY) == b''
    scene.proxy.wait_log(r'flow \d+: client .* no way to the relay: \S', PROMPTLY, mark)


# --- what it may say -----------------------------------------------------------------------------

def test_unknown_optional_is_skipped(scene):
    client, group = scene.open()
    for stripe in group.stripes:
        stripe.send(x.control(0x8002, b'from a later version'), x.control(0xffff, bytes(124)))
    group.send(b'goes on')
    check_same(receive_exactly(client, 7), b'goes on')
    client.close()
    group.close()


def test_data_before_number_and_connected(scene):
    """Stripes are independent: data of one may overtake what another says."""
    client, group = scene.open(2, answer=False)
    group.stripes[1].send(x.datagram(1, b'overtaken'))
    check_same(receive_exactly(client, 9), b'overtaken')
    for stripe in group.stripes:
        stripe.send(x.number(77))
    group.stripes[0].send(x.control(x.CONNECTED))
    group.serial = 1
    group.send(b'!')
    check_same(receive_exactly(client, 1), b'!')
    client.close()
    group.close()


def test_early_data_comes_before_any_answer(scene):
    client, group = scene.open(answer=False)
    client.sendall(b'early')
    check_same(group.receive(5), b'early')
    client.close()
    group.close()


def test_ping_is_answered(scene):
    client, group = scene.open(2)
    for stripe in group.stripes:
        stripe.ping(b'in group')
    client.close()
    group.close()


def test_reset_lets_data_before_it_pass(scene):
    client, group = scene.open(2)
    group.stripes[1].send(x.reset(serial=2))
    group.stripes[0].send(x.datagram(1, b'before '), x.datagram(2, b'it'))
    assert expect_reset(client, PROMPTLY) == b'before it'
    group.close()


def test_both_directions_to_the_end(scene):
    client, group = scene.open()
    up, down = noise(500_000, 1), noise(500_000, 2)

    def talk():
        client.sendall(up)
        client.shutdown(1)

    def answer():
        group.send(down, size=7001)
        group.end_sending()

    *_, got_up, got_down = together((talk,), (answer,), (group.receive_all,), (receive_all, client))
    check_same(got_up, up)
    check_same(got_down, down)
    for stripe in group.detach():
        stripe.close()
    client.close()


def test_number_0_for_a_join_is_no_loss(scene):
    """Nothing was sent on that stripe: the flow goes on with the other."""
    client, group = scene.open(2, answer=False)
    while group.stripes[1] in group.carriers:  # then it is one
        client.close()
        group.close()
        client, group = scene.open(2, answer=False)
    opened, joined = group.stripes[:2]
    opened.send(x.number(88), x.control(x.CONNECTED))
    joined.send(x.number(0, x.OVERLOADED))
    message = joined.read()
    while isinstance(message, x.Control) and message.kind == x.PING:
        message = joined.read()
    assert message is None or message.kind == x.DETACH
    group.stripes = [opened]
    client.sendall(b'all the same')
    check_same(group.receive(12), b'all the same')
    client.close()
    group.close()
    joined.close()
