# SPDX-License-Identifier: ISC
"""The base protocol, as proxy and as relay, written from its specification alone.

    establishment: the proxy sends 0 on the first connection and receives its connection number;
    on each further one it sends that number and receives it back.
    transmission, both ways: serial, size, then size bytes; the first serial of a direction is 1.

All numbers are unsigned, 32 bits, network order. Nothing here knows the program under test.
"""

import selectors
import socket
import struct
import threading
import time

LAST_SERIAL = 0xffffffff
PIECE = 1 << 18


class Broken(Exception):
    """The other end did what the protocol forbids, or went away in the middle."""


def serial_after(serial):
    return 1 if serial == LAST_SERIAL else serial + 1


def receive_exactly(sock, size):
    data = b''
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise Broken(f'end after {len(data)} bytes of {size}')
        data += piece
    return data


def send_number(sock, number):
    sock.sendall(struct.pack('!I', number))


def receive_number(sock):
    return struct.unpack('!I', receive_exactly(sock, 4))[0]


def datagram(serial, payload, size=None):
    """size: what the header says, if that is not the truth."""
    return struct.pack('!II', serial, len(payload) if size is None else size) + payload


class Group:
    """The stripes of one flow, seen from one end. What it sends goes round and round."""

    def __init__(self, number):
        self.number = number
        self.stripes = []
        self.serial = 0  # the last that was sent
        self._next = 0
        self._lock = threading.Lock()
        self._due = 1
        self._early = {}
        self._partial = {}
        self._unread = bytearray()
        self._open = set()

    def add(self, stripe):
        with self._lock:
            self.stripes.append(stripe)
            self._open.add(stripe)
            self._partial[stripe] = bytearray()

    def send_datagram(self, payload, stripe=None):
        with self._lock:
            if stripe is None:
                stripe = self.stripes[self._next % len(self.stripes)]
                self._next += 1
            self.serial = serial_after(self.serial)
            serial = self.serial
        stripe.sendall(datagram(serial, payload))

    def send(self, data, size=16384):
        for start in range(0, len(data), size):
            self.send_datagram(bytes(data[start:start + size]))

    def end_sending(self):
        for stripe in self.stripes:
            stripe.shutdown(socket.SHUT_WR)

    def receive(self, size=None, timeout=30):
        """Exactly size bytes of the flow, or without a size all up to the end of every stripe."""
        while size is None or len(self._unread) < size:
            if not self._read_some(timeout):
                break
        if size is None:
            size = len(self._unread)
        if len(self._unread) < size:
            raise Broken(f'end after {len(self._unread)} bytes of {size}')
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def _read_some(self, timeout):
        """False when all stripes have ended."""
        ready = []
        deadline = time.monotonic() + timeout
        while not ready:
            with self._lock:
                reading = set(self._open)
            if not reading:
                if self._early:
                    raise Broken(f'all stripes ended, and serial {self._due} never came')
                return False
            if time.monotonic() > deadline:
                raise Broken(f'nothing came for {timeout} s')
            with selectors.DefaultSelector() as selector:
                for stripe in reading:
                    selector.register(stripe, selectors.EVENT_READ)
                ready = selector.select(0.1)  # then look for stripes that have joined
        for key, _ in ready:
            self._take(key.fileobj)
        return True

    def _take(self, stripe):
        piece = stripe.recv(PIECE)
        partial = self._partial[stripe]
        if not piece:
            self._open.discard(stripe)
            if partial:
                raise Broken('a stripe ended inside a datagram')
            return
        partial += piece
        self._parse(partial)
        while self._due in self._early:
            self._unread += self._early.pop(self._due)
            self._due = serial_after(self._due)

    def _parse(self, partial):
        at = 0
        while len(partial) - at >= 8:
            serial, size = struct.unpack_from('!II', partial, at)
            if len(partial) - at < 8 + size:
                break
            if serial == 0 or serial in self._early:
                raise Broken(f'serial {serial}')
            self._early[serial] = bytes(partial[at + 8:at + 8 + size])
            at += 8 + size
        del partial[:at]

    def close(self):
        for stripe in self.stripes:
            stripe.close()


class Proxy:
    """connect() makes a new connection to the relay."""

    def __init__(self, connect):
        self.connect = connect

    def open(self, stripes=1):
        first = self.connect()
        send_number(first, 0)
        number = receive_number(first)
        if number == 0:
            raise Broken('the relay gave out number 0')
        group = Group(number)
        group.add(first)
        for _ in range(stripes - 1):
            self.join(group)
        return group

    def join(self, group):
        stripe = self.connect()
        send_number(stripe, group.number)
        if receive_number(stripe) != group.number:
            raise Broken('the relay answered with another number')
        group.add(stripe)
        return stripe


class Relay:
    """Serves proxies on a listener until closed. groups: by number; wait_group() waits for one."""

    def __init__(self, listener, timeout=30):
        self.listener = listener
        self.timeout = timeout
        self.groups = {}
        self._changed = threading.Condition()
        self._number = 0x1000
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                stripe, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._establish, args=(stripe,), daemon=True).start()

    def _establish(self, stripe):
        stripe.settimeout(self.timeout)
        try:
            number = receive_number(stripe)
        except (Broken, OSError):
            stripe.close()
            return
        with self._changed:
            if number == 0:
                self._number += 1
                number = self._number
                self.groups[number] = Group(number)
            if number not in self.groups:
                stripe.close()
                return
            send_number(stripe, number)
            self.groups[number].add(stripe)
            self._changed.notify_all()

    def wait_group(self, stripes=1, besides=()):
        """A group, none of those, that has as many stripes."""
        def found():
            return next((g for g in self.groups.values()
                         if g not in besides and len(g.stripes) >= stripes), None)

        with self._changed:
            if not self._changed.wait_for(found, self.timeout):
                raise Broken(f'no group with {stripes} stripes came')
            return found()

    def close(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept() up
        except OSError:
            pass
        self.listener.close()
        self._thread.join(self.timeout)
        for group in self.groups.values():
            group.close()
