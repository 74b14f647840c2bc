# SPDX-License-Identifier: ISC
"""The extended protocol, as proxy and as relay, written from doc/protocol.md alone.

Messages are built by functions that also build wrong ones, since the tests need both. The flow of
data is that of the base protocol's speaker, but for control datagrams between the others.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import os
import select
import socket
import struct
import threading
import time

from base_speaker import Broken, datagram, receive_exactly, serial_after

EXTENSION = 0xffff0001
VERSION = 1
PARITY = 1  # a feature, which this speaker doesn't have
LARGEST_DATAGRAM = 1 << 20
OPEN, JOIN, NUMBER, CONNECTED, FAILED, FIN, RESET, DETACH, PING, PONG = range(1, 11)
OPTIONAL = 0x8000
(NONE, REFUSED, UNREACHABLE, TIMED_OUT, FORBIDDEN, NO_SUCH_GROUP, OVERLOADED, INTERNAL, WAS_RESET,
 PROTOCOL, STRIPE_LOST, SHUTDOWN) = range(12)
NO_KEY = (bytes(8), bytes(32))  # (id, secret)


# --- greeting ----------------------------------------------------------------------------------

def mac(secret, label, *parts):
    return hmac.new(secret, label + b''.join(parts), hashlib.sha512).digest()[:32]


def hello(key_id=NO_KEY[0], nonce=None, extension=EXTENSION, version=VERSION, features=0):
    head = struct.pack('!IHHI', extension, version, 0, features)
    return head + key_id + (nonce or os.urandom(32))


def challenge(secret, greeting, extension=EXTENSION, version=VERSION, features=0):
    head = struct.pack('!IHHI', extension, version, 0, features) + os.urandom(32)
    return head + mac(secret, b'ro-ro-tcp relay 1', greeting, head)


def proof(secret, greeting, answer):
    return mac(secret, b'ro-ro-tcp proxy 1', greeting, answer)


def greet_as_proxy(sock, key=NO_KEY):
    """Returns the Challenge. Sends no Proof to a relay that hasn't the key."""
    key_id, secret = key
    greeting = hello(key_id)
    sock.sendall(greeting)
    answer = receive_exactly(sock, 76)
    extension, version, _, features = struct.unpack('!IHHI', answer[:12])
    if (extension, version, features) != (EXTENSION, VERSION, 0):
        raise Broken(f'Challenge with {extension:#x}, version {version}, features {features:#x}')
    if answer[44:] != mac(secret, b'ro-ro-tcp relay 1', greeting, answer[:44]):
        raise Broken('the relay does not have the key')
    sock.sendall(proof(secret, greeting, answer))
    return answer


def greet_as_relay(sock, keys=(NO_KEY,)):
    """Returns the key id."""
    greeting = receive_exactly(sock, 52)
    extension, version, _, _ = struct.unpack('!IHHI', greeting[:12])
    if extension != EXTENSION or version < 1:
        raise Broken(f'Hello with {extension:#x}, version {version}')
    key_id = greeting[12:20]
    secret = dict(keys).get(key_id, os.urandom(32))
    answer = challenge(secret, greeting)
    sock.sendall(answer)
    if receive_exactly(sock, 32) != proof(secret, greeting, answer):
        raise Broken('the proxy does not have the key')
    return key_id


# --- control datagrams -------------------------------------------------------------------------

def control(kind, body=b''):
    return datagram(0, struct.pack('!HH', kind, 0) + body)


def endpoint(address, port):
    address = ipaddress.ip_address(address)
    return struct.pack('!BBH16s', address.version, 0, port, address.packed)


def read_endpoint(body):
    family, zero, port, packed = struct.unpack('!BBH16s', body)
    if family not in (4, 6) or zero or (family == 4 and any(packed[4:])):
        raise Broken(f'endpoint {body.hex()}')
    return str(ipaddress.ip_address(packed[:4] if family == 4 else packed)), port


def open_group(token, destination, client=('192.0.2.1', 1024)):
    return control(OPEN, token + endpoint(*destination) + endpoint(*client))


def join(token):
    return control(JOIN, token)


def number(value, reason=NONE):
    return control(NUMBER, struct.pack('!II', value, reason))


def failed(reason):
    return control(FAILED, struct.pack('!I', reason))


def fin(serial):
    return control(FIN, struct.pack('!I', serial))


def reset(reason=WAS_RESET, serial=0):
    return control(RESET, struct.pack('!II', reason, serial))


class Control:
    """A control datagram that came."""

    def __init__(self, payload):
        if not 4 <= len(payload) <= 128:
            raise Broken(f'control datagram of {len(payload)} bytes')
        self.kind, _ = struct.unpack('!HH', payload[:4])
        self.body = payload[4:]

    def __repr__(self):
        return f'Control({self.kind}, {self.body.hex()})'

    def numbers(self):
        return struct.unpack(f'!{len(self.body) // 4}I', self.body)


# --- stripes and groups ------------------------------------------------------------------------

class Stripe:
    """A greeted connection. read() gives a Control, or (serial, payload); None at the end."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, *messages):
        self.sock.sendall(b''.join(messages))

    def read(self):
        first = self.sock.recv(1)
        if not first:
            return None
        serial, size = struct.unpack('!II', first + receive_exactly(self.sock, 7))
        if size > LARGEST_DATAGRAM:
            raise Broken(f'datagram of {size} bytes')
        payload = receive_exactly(self.sock, size)
        return (serial, payload) if serial else Control(payload)

    def expect(self, kind):
        """The next Control other than Ping, which is answered; it must be of this kind."""
        while True:
            message = self.read()
            if isinstance(message, Control) and message.kind == PING:
                self.send(control(PONG, message.body))
                continue
            if not isinstance(message, Control) or message.kind != kind:
                raise Broken(f'{message!r}, where a control datagram {kind} was due')
            return message

    def ping(self, payload=b'are you?'):
        self.send(control(PING, payload))
        if self.expect(PONG).body != payload:
            raise Broken('a Pong with other bytes')

    def close(self):
        self.sock.close()


class Group:
    """One flow over stripes, from one end: a stream of numbered datagrams each way."""

    def __init__(self, token, *stripes):
        self.token = token
        self.stripes = list(stripes)
        self.connection_number = None
        self.numbered = 0  # stripes that the relay has confirmed
        self.connected = False
        self.serial = 0  # the last that was sent
        self.fin = None
        self.waited_for = False  # a later client may have the same port
        self.detached = set()  # stripes on which the other end has said Detach
        self.carriers = set()  # stripes on which data came
        self._due = 1
        self._early = {}
        self._turn = 0

    def send(self, data, size=16384):
        for start in range(0, len(data), size):
            self.serial = serial_after(self.serial)
            stripe = self.stripes[self._turn % len(self.stripes)]
            self._turn += 1
            stripe.send(datagram(self.serial, data[start:start + size]))

    def end_sending(self):
        self.stripes[0].send(fin(self.serial))

    def receive(self, size):
        """Reads a datagram at a time, from the stripe that has one, until there are size bytes."""
        data = b''
        while len(data) < size:
            data += self._receive_next()
        if len(data) > size:
            raise Broken(f'{len(data)} bytes came where {size} were due')
        return data

    def receive_all(self):
        data = bytearray()
        while self.fin is None or self._due != serial_after(self.fin):
            data += self._receive_next()
        return bytes(data)

    def _receive_next(self):
        if self._due in self._early:
            payload = self._early.pop(self._due)
            self._due = serial_after(self._due)
            return payload
        self.read_some()
        return b''

    def read_some(self):
        """One message from each stripe that has one."""
        timeout = self.stripes[0].sock.gettimeout()
        deadline = time.monotonic() + timeout
        ready = []
        while not ready:
            if time.monotonic() > deadline:
                raise Broken(f'nothing came for {timeout} s; serial {self._due} is due')
            by_fd = {stripe.sock.fileno(): stripe for stripe in self.stripes
                     if stripe not in self.detached}
            ready = select.select(list(by_fd), [], [], 0.1)[0]  # then look who has joined
        for fd in ready:
            self._take(by_fd[fd], by_fd[fd].read())

    def _take(self, stripe, message):
        if message is None:
            raise Broken('a stripe of the group ended')
        if not isinstance(message, Control):
            serial, payload = message
            if 0 < (self._due - serial) & 0xffffffff < self._due:  # it was sent once more
                return
            if (serial - self._due) & 0xffffffff >= 1 << 31:
                raise Broken(f'serial {serial}, when {self._due} was due')
            if self._early.setdefault(serial, payload) != payload:
                raise Broken(f'serial {serial} is not the same on two stripes')
            self.carriers.add(stripe)
        elif message.kind == PING:
            stripe.send(control(PONG, message.body))
        elif message.kind == FIN:
            self.fin, = message.numbers()
        elif message.kind == NUMBER:
            self._take_number(*message.numbers())
        elif message.kind == CONNECTED:
            self.connected = True
        elif message.kind == DETACH:
            self.detached.add(stripe)
        elif not message.kind & OPTIONAL:
            raise Broken(f'{message!r} in a group')

    def _take_number(self, value, reason):
        if value == 0:
            raise Broken(f'refused: reason {reason}')
        if self.connection_number not in (None, value):
            raise Broken('two numbers for one group')
        self.connection_number = value
        self.numbered += 1

    def detach(self):
        """After both directions have ended: gives the stripes back. They are idle then."""
        for stripe in self.stripes:
            stripe.send(control(DETACH))
        for stripe in self.stripes:
            while stripe not in self.detached:
                message = stripe.read()
                if message is None:
                    raise Broken('a stripe ended before its Detach')
                if isinstance(message, Control) and message.kind == DETACH:
                    self.detached.add(stripe)
        idle, self.stripes = self.stripes, []
        return idle

    def close(self):
        for stripe in self.stripes:
            stripe.close()


class Proxy:
    """connect() makes a new connection to the relay."""

    def __init__(self, connect, key=NO_KEY):
        self.connect = connect
        self.key = key

    def dial(self):
        """An idle stripe."""
        sock = self.connect()
        try:
            greet_as_proxy(sock, self.key)
        except BaseException:
            sock.close()
            raise
        return Stripe(sock)

    def open(self, destination, stripes=1, client=('192.0.2.1', 1024)):
        """A group that the relay has connected. Joins go out before any answer."""
        group = Group(os.urandom(16), *(self.dial() for _ in range(stripes)))
        try:
            group.stripes[0].send(open_group(group.token, destination, client))
            for stripe in group.stripes[1:]:
                stripe.send(join(group.token))
            while group.numbered < stripes or not group.connected:
                group.read_some()
        except BaseException:
            group.close()
            raise
        return group


class Relay:
    """Serves proxies on a listener until closed; the test plays the servers.

    A proxy decides how many stripes a flow has and when: they are taken as they come. greet(sock)
    does the greeting. With answer False nobody is answered, until the test does it.
    """

    def __init__(self, listener, keys=(NO_KEY,), timeout=30):
        self.listener = listener
        self.timeout = timeout
        self.groups = []
        self.greet = lambda sock: greet_as_relay(sock, keys)
        self.answer = True
        self._number = 0x2000
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        sock.settimeout(None)  # a stripe may be idle for long
        try:
            self.greet(sock)
            stripe = Stripe(sock)
            message = stripe.read()
            while isinstance(message, Control) and message.kind == PING:
                stripe.send(control(PONG, message.body))
                message = stripe.read()
            sock.settimeout(self.timeout)
            if not isinstance(message, Control):
                raise Broken(f'{message!r} on an idle stripe')
            self._bind(stripe, message)
        except (Broken, OSError):
            sock.close()

    def _bind(self, stripe, message):
        with self._changed:
            if message.kind == OPEN and len(message.body) == 56:
                group = Group(message.body[:16], stripe)
                group.destination = read_endpoint(message.body[16:36])
                group.client = read_endpoint(message.body[36:])
                self._number += 1
                group.connection_number = self._number
                self.groups.append(group)
            elif message.kind == JOIN and len(message.body) == 16:
                group = self._find(message.body)
                group.stripes.append(stripe)
            else:
                raise Broken(f'{message!r} on an idle stripe')
            if self.answer:
                stripe.send(number(group.connection_number))
                if message.kind == OPEN:
                    stripe.send(control(CONNECTED))
            self._changed.notify_all()

    def _find(self, token):
        """Waits, since a Join may be here before its Open."""
        def found():
            return next((group for group in self.groups if group.token == token), None)

        if not self._changed.wait_for(found, 5):
            raise Broken('a Join of no group')
        return found()

    def wait_group(self, client=None, stripes=1):
        """A new group with as many stripes, of that client's address (any if None)."""
        def found():
            return next((group for group in self.groups
                         if client in (None, group.client) and not group.waited_for
                         and len(group.stripes) >= stripes), None)

        with self._changed:
            if not self._changed.wait_for(found, self.timeout):
                raise Broken(f'no group with {stripes} stripes came')
            group = found()
            group.waited_for = True
            return group

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept() up
        self.listener.close()
        self._thread.join(self.timeout)
        for group in self.groups:
            group.close()
