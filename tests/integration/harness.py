# SPDX-License-Identifier: ISC
"""The daemons under test, and the gateway that two of them make in the lab.

The program is found in the build directory named by $RORO_BUILD, else in build/ or in the top of
the source tree. $RORO_USER, if set, is whom the daemons become (the leak sanitizer needs root).
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

from labnet import GW_LAN, RELAY_SRV

TOP = pathlib.Path(__file__).resolve().parents[2]
FIREWALL = TOP / 'netfilter' / 'ro-ro-tcp-firewall'
PROXY_PORT = 9300
RELAY_PORT = 9301
PATIENCE = 30  # seconds: for what takes long only when it is broken
SANITIZER = re.compile(r'(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|runtime error:')

# More addresses of the server: one that is never captured, and one that drops what comes.
DIRECT = ('10.77.3.3', 'fd77:3::3')
SILENT = ('10.77.3.9', 'fd77:3::9')
# The relay has no route there, and says so.
UNREACHABLE = ('10.99.1.1', 'fd99:1::1')


class Failure(AssertionError):
    """A condition did not come true in time, or a daemon did not behave."""


def wait_for(what, condition, seconds=PATIENCE, interval=0.01):
    """Polls until condition() is true and returns its value; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise Failure(f'waited {seconds} s in vain: {what}')
        time.sleep(interval)


def find_program():
    named = os.environ.get('RORO_BUILD')
    places = [pathlib.Path(named)] if named else [TOP / 'build', TOP]
    for place in places:
        program = place / 'src' / 'ro-ro-tcp'
        if program.is_file():
            return str(program.resolve())
    raise Failure('no src/ro-ro-tcp in ' + ' or '.join(map(str, places))
                  + ': build it, or name the build directory with RORO_BUILD')


def is_sanitized(program):
    binary = pathlib.Path(program).read_bytes()
    return b'__asan_init' in binary or b'__tsan_init' in binary


class Program:
    """A process in the lab whose log (standard error, by lines) is kept and can be waited for.

    It is appended to the list `register` as soon as it runs, whatever becomes of it then.
    """

    def __init__(self, lab, host, argv, name=None, register=None, **popen):
        self.lab = lab
        self.name = name or os.path.basename(argv[0])
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False
        self.process = lab.popen(host, argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 text=True, errors='replace', **popen)
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if register is not None:
            register.append(self)

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip('\n'))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def log(self, since=0):
        with self._changed:
            return self.lines[since:]

    def mark(self):
        """Where the log ends now: for wait_log(since=...)."""
        with self._changed:
            return len(self.lines)

    def wait_log(self, pattern, seconds=PATIENCE, since=0):
        """Waits for a line that matches and returns it."""
        deadline = time.monotonic() + seconds
        seen = since
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if re.search(pattern, line):
                        return line
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = 'ended' if self._ended else f'said nothing like it for {seconds} s'
                    raise Failure(f'{self.name} {why}; waited for /{pattern}/; its log:\n'
                                  + '\n'.join(self.lines[since:][-30:]))
                self._changed.wait(left)

    def running(self):
        return self.process.poll() is None

    def send(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=PATIENCE):
        """Waits for its end; returns the exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f'{self.name} still runs after {seconds} s') from None
        self._reader.join(seconds)
        return code

    def kill(self):
        if self.running():
            self.lab.end(self.process)
        self._reader.join(PATIENCE)


class Daemon(Program):
    """A proxy or a relay: ready when made, and stopped with stop().

    under: words before the command, of a program that ends by executing it.
    """

    _count = 0

    def __init__(self, lab, host, role, *options, folder, control=True, under=(), register=None):
        Daemon._count += 1
        self.role = role
        # In a folder that the daemon makes for itself, so that it may remove the socket as well.
        self.control = str(pathlib.Path(folder) / f'{role}{Daemon._count}' / 'control')
        argv = [*under, find_program(), role, *map(str, options)]
        if control:
            argv += ['--control', self.control]
        if os.environ.get('RORO_USER'):
            argv += ['--user', os.environ['RORO_USER']]
        super().__init__(lab, host, argv, name=role, register=register)
        self.wait_log(rf'ready: {role} on ')

    def status(self):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(self.control)
            text = b''.join(iter(lambda: control.recv(65536), b''))
        return json.loads(text)

    def counters(self):
        return self.status()['counters']

    def counter(self, name):
        return self.counters()[name]

    def wait_counter(self, name, value, seconds=PATIENCE):
        wait_for(f'{self.role}: {name} == {value}, it is {self.counter(name)}',
                 lambda: self.counter(name) == value, seconds)

    def wait_idle(self, seconds=10):
        """Waits until no flow is left, nor anything that a flow holds."""
        names = ('flows_now', 'pipes_busy_now', 'buffers_busy_now')
        counters = {}

        def idle():
            counters.update(self.counters())
            return not any(counters[name] for name in names)

        try:
            wait_for(f'{self.role} to be idle', idle, seconds, 0.02)
        except Failure:
            left = {name: counters[name] for name in names if counters[name]}
            raise Failure(f'{self.role} is not idle after {seconds} s: {left}') from None

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.pid}/fd'))

    def memory(self):
        """Anonymous memory in bytes: what it has allocated and touched."""
        text = pathlib.Path(f'/proc/{self.pid}/smaps_rollup').read_text()
        return int(re.search(r'^Anonymous: +(\d+) kB', text, re.M)[1]) * 1024

    def cpu_seconds(self):
        fields = pathlib.Path(f'/proc/{self.pid}/stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def stop(self, seconds=PATIENCE):
        """SIGTERM; it must end cleanly."""
        if self.running():
            self.send(signal.SIGTERM)
        self.check_end(seconds)

    def check_end(self, seconds=PATIENCE):
        """It ends by itself, with exit code 0 and without a sanitizer's report."""
        code = self.wait(seconds)
        reports = [line for line in self.log() if SANITIZER.search(line)]
        if reports:
            raise Failure(f'{self.role}: a sanitizer reports: {reports[0]}')
        if code != 0:
            raise Failure(f'{self.role} ended with {code}')


class Firewall:
    """The script, run on the gateway. usual() is the state between tests: everything to TPROXY."""

    def __init__(self, lab):
        self.lab = lab
        self._is_usual = False

    def run(self, *arguments):
        self._is_usual = False
        return self.lab.run('gw', [str(FIREWALL), *arguments], timeout=PATIENCE)

    def up(self, *arguments):
        spared = ['--exclude', f'{DIRECT[0]}/32', '--exclude', f'{DIRECT[1]}/128']
        for family in (4, 6):
            spared += ['--relay', self.lab.address('relay', family)]
        self.run('up', '--lan', 'lan0', '--alive', '0', *spared, *arguments)

    def down(self):
        self.run('down')

    def usual(self):
        if not self._is_usual:
            self.up()
            self._is_usual = True


def endpoint(address, port):
    return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'


class Gateway:
    """A relay and a proxy in the lab. Other options than the defaults go as words in the lists.

    With stripes each flow has that many all the time, else the proxy sees for itself.
    """

    def __init__(self, start, lab, mode='splice', stripes=None, workers=2, family=4, key=None,
                 capture='tproxy', relay=(), proxy=()):
        self.lab = lab
        both = ['--workers', workers, '--verbose']
        if mode == 'copy':
            both.append('--no-splice')
        trust = ['--key', key] if key else ['--insecure']
        self.relay_options = both + trust + list(relay)
        self.proxy_options = [*both, *(['--key', key] if key else []), '--capture', capture,
                              '--relay', endpoint(lab.address('relay', family), RELAY_PORT),
                              *(['--stripes', f'{stripes}:{stripes}'] if stripes else []), *proxy]
        self._start = start
        self.relay = self.start_relay()
        self.proxy = self.start_proxy()

    def start_relay(self, **how):
        self.relay = self._start('relay', 'relay', *self.relay_options, **how)
        return self.relay

    def start_proxy(self, **how):
        self.proxy = self._start('gw', 'proxy', *self.proxy_options, **how)
        return self.proxy

    def daemons(self):
        return [self.proxy, self.relay]

    def wait_idle(self, seconds=10):
        for daemon in self.daemons():
            daemon.wait_idle(seconds)

    def client(self, listener, address=None, family=None, timeout=PATIENCE):
        """A client's connection to the listener on the server."""
        family = family or (4 if listener.family == socket.AF_INET else 6)
        sock = self.lab.socket('client', family)
        sock.settimeout(timeout)
        sock.connect((address or self.lab.address('server', family), listener.getsockname()[1]))
        return sock

    def pair(self, listener, **how):
        """A flow's two ends: the client's socket and the server's. Fails if it went around us."""
        client = self.client(listener, **how)
        return client, accept(listener)


def accept(listener, timeout=PATIENCE, through_relay=True):
    listener.settimeout(timeout)
    server, peer = listener.accept()
    server.settimeout(timeout)
    if through_relay:
        assert peer[0] in RELAY_SRV, f'a flow went around the gateway: it came from {peer[0]}'
    return server


def prepare_hosts(lab):
    """Adds what the tests want on top of the plain lab."""
    direct4, direct6 = DIRECT
    silent4, silent6 = SILENT
    for command in (f'ip address add {direct4}/24 dev eth0',
                    f'ip address add {direct6}/64 dev eth0 nodad',
                    f'ip address add {silent4}/24 dev eth0',
                    f'ip address add {silent6}/64 dev eth0 nodad',
                    f'iptables -A INPUT -d {silent4} -j DROP',
                    f'ip6tables -A INPUT -p tcp -d {silent6} -j DROP'):
        lab.run('server', command.split())
    for address in UNREACHABLE:
        lab.run('relay', ['ip', 'route', 'add', 'unreachable', address])


__all__ = ['DIRECT', 'Daemon', 'Failure', 'Firewall', 'GW_LAN', 'Gateway', 'PATIENCE', 'PROXY_PORT',
           'Program', 'RELAY_PORT', 'RELAY_SRV', 'SILENT', 'TOP', 'UNREACHABLE', 'accept',
           'endpoint', 'find_program', 'is_sanitized', 'prepare_hosts', 'wait_for']
