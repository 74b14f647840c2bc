# SPDX-License-Identifier: ISC
"""What tests/demo shows: a file across a lossy WAN, directly and through ro-ro-tcp.

Direct comes first, with no rule in place; then relay, proxy and firewall are started as a user
would start them, and the same client fetches the same file from the same server again.
"""

import contextlib
import hashlib
import http.server
import os
import pathlib
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / 'tests' / 'lab'))
from labnet import RELAY_SRV, Lab, LabError  # noqa: E402

RATE, DELAY, LOSS = '100mbit', '50ms', '1%'
PAYLOAD_LIMIT = 95.6  # Mbit/s of TCP payload that this link can carry: see tests/lab/README.md
FILE_SIZE = 64_000_000
PIECE = 256 * 1024
DIRECT_SECONDS = 10  # a direct transfer is cut off then
STRIPED_SECONDS = 60  # one through the gateway has failed then
PATIENCE = 20  # seconds: for all that takes long only when it is broken
REQUESTS = 7  # of which the median time to first byte is taken
PORT = 80


class Failure(Exception):
    """Says in one line what went wrong."""


class Screen:
    """What the terminal can do: Unicode, colours, and a line that is written over."""

    def __init__(self):
        locale = next(filter(None, map(os.environ.get, ('LC_ALL', 'LC_CTYPE', 'LANG'))), '')
        self.unicode = locale.lower().replace('-', '').endswith('utf8')
        self.tty = sys.stdout.isatty()
        self.colour = self.tty and 'NO_COLOR' not in os.environ
        self._open = False  # a progress line stands

    def say(self, text=''):
        self.end_progress()
        print(text, flush=True)

    def strong(self, text):
        return f'\033[1;32m{text}\033[0m' if self.colour else text

    def bar(self, share, width):
        """A bar of share * width characters, in eighths of one where that can be drawn."""
        eighths = round(max(0, min(share, 1)) * width * 8)
        if not self.unicode:
            return '#' * max(1, round(eighths / 8))
        return '█' * (eighths // 8) + ' ▏▎▍▌▋▊▉'[eighths % 8].strip() or '▏'

    def progress(self, text):
        if self.tty:
            print(f'\r{text}\033[K', end='', flush=True)
            self._open = True
        else:
            print(text, flush=True)

    def end_progress(self):
        if self._open:
            print()
            self._open = False


class Transfer:
    """One file on its way: bytes are counted, timed and hashed where they arrive."""

    def __init__(self):
        self.began = time.monotonic()
        self.ended = None
        self.arrived = 0
        self._hash = hashlib.sha256()

    def take(self, piece):
        self._hash.update(piece)
        self.arrived += len(piece)
        if self.arrived == FILE_SIZE:
            self.ended = time.monotonic()

    def complete(self):
        return self.ended is not None

    def seconds(self):
        return (self.ended or time.monotonic()) - self.began

    def mbit(self):
        return self.arrived * 8 / 1e6 / self.seconds()

    def digest(self):
        return self._hash.hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /file is the file, any other GET a few bytes; PUT tells the hash of what came."""

    protocol_version = 'HTTP/1.1'

    def handle(self):
        with contextlib.suppress(OSError):  # a transfer that is cut off
            super().handle()

    def note_peer(self):
        congestion = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        self.server.peers.add((self.client_address[0], congestion.rstrip(b'\0').decode()))

    def answer(self, body):
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.note_peer()
        self.answer(self.server.file if self.path == '/file' else b'hello\n')

    def do_PUT(self):
        self.note_peer()
        transfer, left = self.server.upload, int(self.headers['Content-Length'])
        while left:
            piece = self.rfile.read1(min(left, PIECE))
            if not piece:
                return
            transfer.take(piece)
            left -= len(piece)
        self.answer(transfer.digest().encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, lab, file):
        super().__init__(('', PORT), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = lab.listen('server', 4, PORT)
        self.file = file
        self.upload = None
        self.peers = set()  # (address, congestion control) of each client since it was cleared

    def handle_error(self, *_):
        pass  # the client says what is wrong

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Client:
    """One connection of the client to the server: a request, and the answer as it comes."""

    def __init__(self, lab):
        self.address = lab.address('server')
        self.socket = lab.socket('client')
        self.socket.settimeout(STRIPED_SECONDS)

    def request(self, head, fields=''):
        self.socket.connect((self.address, PORT))
        self.socket.sendall(f'{head} HTTP/1.1\r\nHost: {self.address}\r\n{fields}\r\n'.encode())

    def read_head(self):
        """Reads the head of the answer; returns what came of the body with it."""
        head = b''
        while b'\r\n\r\n' not in head:
            piece = self.socket.recv(PIECE)
            if not piece:
                raise Failure('the connection ended before the answer')
            head += piece
        head, _, body = head.partition(b'\r\n\r\n')
        if b' 200 ' not in head.splitlines()[0]:
            raise Failure(f'the server said: {head.splitlines()[0].decode()}')
        return body

    def download(self, transfer):
        self.request('GET /file')
        transfer.take(self.read_head())
        buffer = memoryview(bytearray(PIECE))
        while count := self.socket.recv_into(buffer):
            transfer.take(buffer[:count])

    def upload(self, transfer, file):
        self.request('PUT /file', f'Content-Length: {len(file)}\r\n')
        self.socket.sendall(file)
        answer = self.read_head()
        while piece := self.socket.recv(PIECE):
            answer += piece
        if answer.decode() != transfer.digest():
            raise Failure('the answer to the upload was changed on its way')

    def first_byte(self):
        """Seconds from connecting to the first byte of the answer."""
        began = time.monotonic()
        self.request('GET /')
        if not self.socket.recv(1):
            raise Failure('the connection ended before the answer')
        return time.monotonic() - began

    def cut_off(self):
        """Resets the connection, so that nothing of it disturbs the next."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes up the thread that uses it


class Daemon:
    """A daemon in the lab, whose log is kept, and told if it fails."""

    def __init__(self, lab, host, argv, **kw):
        self.lab = lab
        self.name = argv[1]
        self.log = []
        self._ready = threading.Event()  # or ended
        self.ready_line = None
        self.process = lab.popen(host, argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 text=True, **kw)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if 'ready: ' in line:
                self.ready_line = line.rstrip()
                self._ready.set()
        self._ready.set()

    def wait_ready(self):
        self._ready.wait(PATIENCE)
        if not self.ready_line:
            raise Failure(f'{self.name} did not start')
        return self.ready_line

    def stop(self):
        """SIGTERM, as systemd would. It must end cleanly."""
        self.process.terminate()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f'{self.name} still runs {PATIENCE} s after SIGTERM') from None
        self._reader.join(PATIENCE)
        if status != 0:
            raise Failure(f'{self.name} ended with {status}')


class Demo:
    def __init__(self, lab, build, folder):
        self.lab = lab
        self.screen = Screen()
        self.folder = folder
        programs = [str(build / 'src'), str(TOP / 'netfilter'), os.environ['PATH']]
        self.env = {**os.environ, 'PATH': ':'.join(programs)}
        self.file = os.urandom(FILE_SIZE)
        self.hash = hashlib.sha256(self.file).hexdigest()
        self.server = Server(lab, self.file)
        self.daemons = []
        self.rows = []  # (name, {'download': Transfer, 'upload': Transfer}, seconds to first byte)

    # The two ways

    def measure(self, name, seconds, peer):
        """One row of the table. The server must see connections from peer and nobody else."""
        self.server.peers.clear()
        first_byte = statistics.median(self.first_byte() for _ in range(REQUESTS))
        self.screen.say(f'  {name:18} first byte after {first_byte * 1000:.0f} ms')
        transfers = {direction: self.transfer(name, direction, seconds)
                     for direction in ('download', 'upload')}
        if self.server.peers != {peer}:
            raise Failure(f'the server saw {self.server.peers} where only {peer} should have come')
        self.rows.append((name, transfers, first_byte))

    def first_byte(self):
        client = Client(self.lab)
        with client.socket:
            return client.first_byte()

    def transfer(self, name, direction, seconds):
        """Moves the file, for so many seconds at most; what is whole has the right hash."""
        client = Client(self.lab)
        transfer = Transfer()
        errors = []

        def work():
            try:
                if direction == 'download':
                    client.download(transfer)
                else:
                    self.server.upload = transfer
                    client.upload(transfer, self.file)
            except (OSError, Failure) as error:
                errors.append(error)

        with client.socket:
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self.watch(f'  {name:18} {direction:8}', transfer, thread, seconds)
            cut = thread.is_alive()
            arrived, lasted = transfer.arrived, transfer.seconds()
            if cut:
                client.cut_off()
                thread.join(PATIENCE)
        if errors and not cut:
            raise Failure(f'{name}, {direction}: {errors[0]}')
        if transfer.complete() and transfer.digest() != self.hash:
            raise Failure(f'{name}, {direction}: the file was CHANGED: '
                          f'SHA-256 {transfer.digest()}, not {self.hash}')
        if not cut and not transfer.complete():
            raise Failure(f'{name}, {direction}: {arrived} of {FILE_SIZE} bytes came')
        transfer.rate = arrived * 8 / 1e6 / lasted
        return transfer

    def watch(self, label, transfer, thread, seconds):
        """Shows progress until the file has arrived or the time is over."""
        interval = 0.2 if self.screen.tty else 2
        while thread.is_alive() and transfer.seconds() < seconds:
            thread.join(min(interval, max(0.001, seconds - transfer.seconds())))
            self.screen.progress(self.progress(label, transfer))
        if self.screen.tty:
            self.screen.progress(self.progress(label, transfer))
        self.screen.end_progress()

    def progress(self, label, transfer):
        bar = self.screen.bar(transfer.arrived / FILE_SIZE, 20).ljust(20)
        end = ''
        if transfer.complete():
            end = '  SHA-256 ok' if transfer.digest() == self.hash else '  SHA-256 WRONG'
        return (f'{label} [{bar}] {transfer.arrived / 1e6:5.1f} of {FILE_SIZE / 1e6:.0f} MB'
                f' {transfer.mbit():6.1f} Mbit/s{end}')

    # The gateway, by hand

    def prompt(self, host, command):
        self.screen.say(f'  {host + "#":6} {self.screen.strong(command)}')
        return command

    def run(self, host, command):
        self.prompt(host, command)
        self.lab.run(host, ['sh', '-c', command], timeout=PATIENCE, cwd=self.folder, env=self.env)

    def start(self, host, command):
        self.prompt(host, command + ' &')
        daemon = Daemon(self.lab, host, command.split(), cwd=self.folder, env=self.env)
        self.daemons.append(daemon)
        self.screen.say(f'           {daemon.wait_ready()}')
        return daemon

    def start_gateway(self):
        relay = self.lab.address('relay')
        self.run('relay', 'umask 077; ro-ro-tcp keygen >key   # and copy it to the gateway')
        self.start('relay', 'ro-ro-tcp relay --key key --control none')
        proxy = self.start('gw', f'ro-ro-tcp proxy --key key --relay {relay} --control none')
        self.run('gw', f'ro-ro-tcp-firewall up -q --lan lan0 --relay {relay}')
        self.wait_captured()
        return 'bbr' if ', bbr,' in proxy.ready_line else 'cubic'

    def wait_captured(self):
        """The rules take connections only when the proxy has reported itself alive."""
        deadline = time.monotonic() + PATIENCE
        ask = ['ro-ro-tcp-firewall', 'status']
        while 'IPv4: the proxy is alive' not in self.lab.run('gw', ask, env=self.env).stdout:
            if time.monotonic() > deadline:
                raise Failure('the proxy does not report itself alive to the firewall')
            time.sleep(0.1)

    def stop_gateway(self):
        self.run('gw', 'ro-ro-tcp-firewall down -q')
        for daemon in reversed(self.daemons):
            daemon.stop()

    # The whole

    def use(self, congestion):
        for host in ('client', 'server'):
            self.lab.sysctl(host, 'net.ipv4.tcp_congestion_control', congestion)

    def play(self):
        client = self.lab.address('client')
        say = self.screen.say
        say('\nA WAN of 100 Mbit/s, 100 ms round trip, 1 % loss; '
            f'a file of {FILE_SIZE / 1e6:.0f} MB.\n\n'
            '    client ---- gw ====== WAN ====== relay ---- server\n')
        say(f'1. Directly, {DIRECT_SECONDS} s at most for each transfer')
        with self.server:
            self.measure('direct, CUBIC', DIRECT_SECONDS, (client, 'cubic'))
            if 'bbr' in self.available():
                self.use('bbr')
                self.measure('direct, BBR', DIRECT_SECONDS, (client, 'bbr'))
                self.use('cubic')
            say('\n2. All that ro-ro-tcp needs')
            stripes = self.start_gateway()
            say('\n3. The same client and server, of which nothing was changed, both with CUBIC')
            self.measure('ro-ro-tcp', STRIPED_SECONDS, (RELAY_SRV[0], 'cubic'))
            if not all(transfer.complete() for transfer in self.rows[-1][1].values()):
                raise Failure(f'the file did not get through in {STRIPED_SECONDS} s')
            say('\n4. And away again')
            self.stop_gateway()
        self.show(stripes)

    @staticmethod
    def available():
        sysctls = pathlib.Path('/proc/sys/net/ipv4')
        return (sysctls / 'tcp_available_congestion_control').read_text().split()

    def show(self, stripes):
        say = self.screen.say
        for direction in ('download', 'upload'):
            base = self.rows[0][1][direction].rate
            say(f'\n  {direction + ", Mbit/s":24}{"to CUBIC":>15}')
            for name, transfers, _ in self.rows:
                rate = transfers[direction].rate
                mark = ' ' if transfers[direction].complete() else '*'
                self.show_row(name, f'{rate:7.1f}{mark}  {rate / base:6.1f} x', rate / 100)
        say(f'\n  {"first byte, ms":24}{"to CUBIC":>15}')
        base = self.rows[0][2]
        slowest = max(row[2] for row in self.rows)
        for name, _, seconds in self.rows:
            self.show_row(name, f'{seconds * 1000:7.0f}   {seconds / base:6.2f} x',
                          seconds / slowest / 2)
        say(f'\n  A full bar is the link, 100 Mbit/s, of which TCP can use {PAYLOAD_LIMIT}.')
        if not all(transfer.complete() for row in self.rows for transfer in row[1].values()):
            slowest = min(transfer.rate for row in self.rows for transfer in row[1].values())
            minutes = FILE_SIZE * 8e-6 / slowest / 60
            say(f'  * Cut off after {DIRECT_SECONDS} s, and reckoned from what had come by then; '
                f'the slowest would take\n    {minutes:.1f} minutes. All others are the whole file, '
                'with the right SHA-256.')
        say('  Client and server use the congestion control named, and CUBIC in the row ro-ro-tcp; '
            f'the stripes\n  between proxy and relay use {stripes.upper()}. '
            f'First byte: the median of {REQUESTS} new connections.')

    def show_row(self, name, figures, share):
        line = f'    {name:17}{figures}  {self.screen.bar(share, 40)}'
        self.screen.say(self.screen.strong(line) if name == 'ro-ro-tcp' else line)


def main(build):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    demo = None
    try:
        with (tempfile.TemporaryDirectory(prefix='ro-ro-tcp-demo-') as folder,
              Lab(rate=RATE, delay=DELAY, loss=LOSS, wan_binary=build) as lab):
            demo = Demo(lab, build, folder)
            demo.play()
    except KeyboardInterrupt:
        print('\nInterrupted; all is taken down.', file=sys.stderr)
        return 128 + signal.SIGINT
    except (Failure, LabError, OSError, subprocess.TimeoutExpired) as error:
        if demo:
            demo.screen.end_progress()
            for daemon in demo.daemons:
                for line in daemon.log[-20:]:
                    print(f'  log of {daemon.name}: {line}', file=sys.stderr)
        print(f'demo: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
