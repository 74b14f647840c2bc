# SPDX-License-Identifier: ISC
"""What clients and servers do in the tests: send, receive, and look at how a connection ended."""

import concurrent.futures
import functools
import hashlib
import random
import select
import selectors
import socket
import struct
import threading
import time

MIB = 1 << 20
CHUNK = 256 * 1024
LARGEST = 64 * MIB


@functools.lru_cache(None)
def _noise():
    return random.Random(1).randbytes(LARGEST + 4096)


def noise(size, which=0):
    """Bytes without any pattern; those of another number differ at every place."""
    start = which * 251 % 4096
    return _noise()[start:start + size]


def check_same(got, sent, where=''):
    """Compares by hash, and says where the first difference is."""
    if hashlib.sha256(got).digest() == hashlib.sha256(sent).digest():
        return
    common = min(len(got), len(sent))
    at = next((i for i in range(0, common, 4096) if got[i:i + 4096] != sent[i:i + 4096]), common)
    at = next((i for i in range(at, min(at + 4096, common)) if got[i] != sent[i]), common)
    raise AssertionError(f'{where}: {len(got)} bytes came of {len(sent)}, the first wrong at {at}')


def send_all(sock, data, then_shut=True):
    sock.sendall(data)
    if then_shut:
        sock.shutdown(socket.SHUT_WR)


def receive_all(sock):
    """All up to the clean end; a reset is an exception."""
    data = bytearray()
    while piece := sock.recv(CHUNK):
        data += piece
    return data


def receive_exactly(sock, size):
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(size - len(data), CHUNK))
        if not piece:
            raise AssertionError(f'it ended after {len(data)} bytes of {size}')
        data += piece
    return data


def together(*calls):
    """Runs calls at the same time, each (function, argument, ...); returns what they return."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(*call) for call in calls]
        return [each.result() for each in running]


def exchange(client, server, up, down):
    """Sends both ways at once up to the end of each direction, and checks what arrived."""
    _, _, got_up, got_down = together((send_all, client, up), (send_all, server, down),
                                      (receive_all, server), (receive_all, client))
    check_same(got_up, up, 'client to server')
    check_same(got_down, down, 'server to client')


def ping(a, b, data=b'ping'):
    """One message each way."""
    a.sendall(data)
    check_same(receive_exactly(b, len(data)), data, 'there')
    b.sendall(data[::-1])
    check_same(receive_exactly(a, len(data)), data[::-1], 'back')


def close_with_reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()


def expect_reset(sock, seconds):
    """The connection is reset within the time, and never ends cleanly. Returns what came before."""
    deadline = time.monotonic() + seconds
    data = bytearray()
    while True:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            piece = sock.recv(CHUNK)
        except ConnectionResetError:
            return data
        except TimeoutError:
            raise AssertionError(f'no reset within {seconds} s, after {len(data)} bytes') from None
        if not piece:
            raise AssertionError(f'a clean end after {len(data)} bytes, where a reset was due')
        data += piece


def expect_reset_of_new(sock, address, seconds):
    """Connects, and is reset: which connect() may notice already."""
    sock.settimeout(seconds)
    try:
        sock.connect(address)
    except ConnectionResetError:
        return
    assert expect_reset(sock, seconds) == b'', 'something came before the reset'


def expect_error_unread(sock, seconds):
    """As expect_reset(), for who doesn't read: the kernel tells by POLLERR."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(seconds * 1000), f'no reset within {seconds} s'
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert error, 'the connection hung up without an error'


def send_until_stuck(sock, data, quiet=1.0):
    """Sends until nothing moves for `quiet` seconds; returns how much was sent."""
    sock.setblocking(False)
    view = memoryview(data)
    sent = 0
    while sent < len(data) and select.select([], [sock], [], quiet)[1]:
        try:
            sent += sock.send(view[sent:sent + CHUNK])
        except BlockingIOError:
            continue
    return sent


class Echo:
    """A server that sends back what it is sent, to any number of clients, until the block ends."""

    def __init__(self, listener):
        self.listener = listener
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()

    def __enter__(self):
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self.listener:
                key.fileobj.close()
        self._selector.close()

    def _serve(self):
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    self._answer(key.fileobj)

    def _accept(self):
        try:
            sock, _ = self.listener.accept()
        except OSError:  # gone before it was accepted
            return
        sock.settimeout(5)
        self._selector.register(sock, selectors.EVENT_READ)

    def _answer(self, sock):
        try:
            data = sock.recv(CHUNK)
            sock.sendall(data)
        except OSError:
            data = b''
        if not data:
            self._selector.unregister(sock)
            sock.close()


def echoes(connect, data=b'are you there?'):
    """True if a new connection to an Echo works."""
    try:
        with connect() as sock:
            sock.sendall(data)
            return receive_exactly(sock, len(data)) == data
    except (ConnectionError, TimeoutError, AssertionError):
        return False
