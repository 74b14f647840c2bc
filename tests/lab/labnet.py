# SPDX-License-Identifier: ISC
"""The lab: client, gateway, WAN, relay and server as network namespaces.

    client eth0 --veth-- lan0 gw wan0 ==emulated WAN== wan0 relay srv0 --veth-- eth0 server

Needs root. Everything a lab makes is found again from its name and its state directory, so that
`Lab(name).down()` clears up after a process that was killed. Standard library only.
"""

import atexit
import contextlib
import ctypes
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

STATE = pathlib.Path('/run/ro-ro-tcp-lab')
SOURCES = pathlib.Path(__file__).resolve().parent
HOSTS = ('client', 'gw', 'relay', 'server')

# host -> (IPv4, IPv6); gw and relay by their WAN side.
ADDRESSES = {
    'client': ('10.77.1.2', 'fd77:1::2'),
    'gw': ('10.77.2.1', 'fd77:2::1'),
    'relay': ('10.77.2.2', 'fd77:2::2'),
    'server': ('10.77.3.2', 'fd77:3::2'),
}
GW_LAN = ('10.77.1.1', 'fd77:1::1')
RELAY_SRV = ('10.77.3.1', 'fd77:3::1')
GW_WAN1 = ('10.77.4.1', 'fd77:4::1')
RELAY_WAN1 = ('10.77.4.2', 'fd77:4::2')

SETTINGS = ('rate', 'delay', 'queue', 'loss', 'burst', 'reorder', 'reorder_delay')

_CLONE_NEWNET = 0x40000000
_END_GRACE = 3.0  # seconds that a process may take to end by itself
_libc = ctypes.CDLL(None, use_errno=True)
_setns = _libc.setns


class LabError(Exception):
    """Says in one line what is wrong and what helps."""


def _ip(*lines):
    """Runs ip(8) commands as one batch. Not in our process group: Ctrl-C must not cut it short."""
    try:
        done = subprocess.run(['ip', '-batch', '-'], input='\n'.join(lines) + '\n', text=True,
                              capture_output=True, start_new_session=True)
    except FileNotFoundError:
        raise LabError("no command 'ip': install iproute2") from None
    if done.returncode != 0:
        raise LabError(f'ip: {done.stderr.strip()}')


def _start_time(pid):
    """The time a process started, which together with its pid names it for good; None if gone."""
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(')')[2].split()[19]


def _end(pids):
    """Ends processes: asks, waits for a bounded time, then kills. Whoever started them reaps."""
    left = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            left[os.pidfd_open(pid)] = pid
    for number in (signal.SIGTERM, signal.SIGKILL):
        for fd in left:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
        deadline = time.monotonic() + _END_GRACE
        while left and time.monotonic() < deadline:
            for fd in select.select(list(left), [], [], deadline - time.monotonic())[0]:
                os.close(fd)
                del left[fd]
    for fd in left:
        os.close(fd)


def _valid_name(name):
    if not re.fullmatch(r'[a-z][a-z0-9-]{0,31}', name):
        raise LabError(f"bad lab name '{name}': use a-z, 0-9 and -, at most 32, a letter first")
    return name


class Lab:
    """One lab. As a context manager it is up inside the block and gone after it.

    rate, delay, queue, loss, burst, reorder and reorder_delay are written as the emulator takes
    them ('100mbit', '50ms', 1250000, '1%', 4, '1%', '5ms') and start the same in both directions;
    rate 0 is unlimited. Every lab that is not `standing` goes away with this process.
    """

    _count = 0

    def __init__(self, name=None, rate='100mbit', delay='50ms', queue=1250000, loss=0, burst=1,
                 reorder=0, reorder_delay='5ms', second_uplink=False, congestion='cubic',
                 wan_binary=None, seed=1, mtu=1500, standing=False):
        if name is None:
            Lab._count += 1
            name = f't{os.getpid()}-{Lab._count}'
        self.name = _valid_name(name)
        self.settings = {'rate': rate, 'delay': delay, 'queue': queue, 'loss': loss,
                         'burst': burst, 'reorder': reorder, 'reorder_delay': reorder_delay}
        self.uplinks = ('wan0', 'wan1') if second_uplink else ('wan0',)
        self.congestion = congestion
        self.seed = seed
        self.mtu = mtu
        self.standing = standing
        self.state = STATE / self.name
        self._wan_binary = wan_binary
        self._children = []
        self._owner = None  # the process that brought it up

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_):
        self.down()

    # Names and addresses

    def namespace(self, host):
        """The network namespace of a host, as ip(8) knows it."""
        if host not in HOSTS:
            raise LabError(f"no host '{host}': say one of {', '.join(HOSTS)}")
        return f'{self.name}-{host}'

    @staticmethod
    def address(host, family=4):
        """The address that others use to reach the host; family is 4 or 6."""
        return ADDRESSES[host][{4: 0, 6: 1}[family]]

    # Up and down

    def up(self):
        """Builds the lab, or raises LabError and leaves nothing behind."""
        if os.geteuid() != 0:
            raise LabError('the lab needs root: network namespaces and TUN devices')
        sweep()
        if not self.standing:
            _exit_on_sigterm()
        try:
            with _uninterrupted():
                self._claim()
                self._make_hosts()
                for uplink in self.uplinks:
                    self._start_wan(uplink)
                self._connect()
        except BaseException:
            if self._owner == os.getpid():
                self.down()
            raise

    def down(self):
        """Takes everything down that bears this lab's name. Harmless when there is nothing."""
        with _uninterrupted():
            if not self.state.exists():
                return
            _end(self._recorded_processes())
            for process in self._children:
                process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream:
                        stream.close()
            self._children = []
            self._remove_hosts()
            shutil.rmtree(self.state)
            self._owner = None
            atexit.unregister(self._down_at_exit)

    def _claim(self):
        """The state directory is there for as long as anything else may be."""
        STATE.mkdir(mode=0o755, exist_ok=True)
        for host in HOSTS:
            if not self.state.exists() and os.path.exists(f'/run/netns/{self.namespace(host)}'):
                raise LabError(f"namespace '{self.namespace(host)}' is there, and not the lab's: "
                               'use another --name')
        try:
            self.state.mkdir()
        except FileExistsError:
            raise LabError(f"lab '{self.name}' is already up, or was left behind: take it down "
                           f"with 'lab down --name {self.name}'") from None
        self._owner = os.getpid()
        if not self.standing:
            self._record('owner', self._owner)
            atexit.register(self._down_at_exit)

    def _down_at_exit(self):
        if self._owner == os.getpid():  # and not a child of ours that was forked
            self.down()

    def _make_hosts(self):
        _allow_congestion()
        for host in HOSTS:
            _ip(f'netns add {self.namespace(host)}')
            with self.in_namespace(host):
                _configure_host(host, self.congestion)

    def _remove_hosts(self):
        """The links go first: a shell that somebody left in a namespace would keep them alive."""
        for host in HOSTS:
            namespace = self.namespace(host)
            if not os.path.exists(f'/run/netns/{namespace}'):
                continue
            with contextlib.suppress(LabError), self.in_namespace(host):
                for interface in ('eth0', 'lan0', 'srv0'):
                    if os.path.exists(f'/proc/sys/net/ipv4/conf/{interface}'):
                        _ip(f'link del {interface}')
            with contextlib.suppress(LabError):
                _ip(f'netns del {namespace}')

    def _connect(self):
        client, gw, relay, server = (self.namespace(host) for host in HOSTS)
        _ip(f'link add eth0 netns {client} type veth peer name lan0 netns {gw}',
            f'link add eth0 netns {server} type veth peer name srv0 netns {relay}')
        self._configure('client', {'eth0': ADDRESSES['client']}, GW_LAN)
        self._configure('server', {'eth0': ADDRESSES['server']}, RELAY_SRV)
        at_gw = {'lan0': GW_LAN, 'wan0': ADDRESSES['gw'], 'wan1': GW_WAN1}
        at_relay = {'srv0': RELAY_SRV, 'wan0': ADDRESSES['relay'], 'wan1': RELAY_WAN1}
        for interfaces in (at_gw, at_relay):
            if 'wan1' not in self.uplinks:
                del interfaces['wan1']
        self._configure('gw', at_gw, ADDRESSES['relay'])
        self._configure('relay', at_relay, ADDRESSES['gw'])

    def _configure(self, host, interfaces, router):
        lines = ['link set lo up']
        for interface, (ipv4, ipv6) in interfaces.items():
            if interface in self.uplinks:
                # No link-local address: what crosses the WAN is what somebody sent on purpose.
                # On the veth devices a router needs one for its neighbour solicitations.
                lines.append(f'link set {interface} addrgenmode none')
            lines += [f'addr add {ipv4}/24 dev {interface}',
                      f'addr add {ipv6}/64 dev {interface} nodad',
                      f'link set {interface} up']
        lines += [f'route add default via {router[0]}', f'route add ::/0 via {router[1]}']
        with self.in_namespace(host):
            _ip(*lines)

    # The emulator

    def _start_wan(self, uplink):
        argv = [self._find_wan(), '--gateway', f'{self.namespace("gw")}:{uplink}',
                '--relay', f'{self.namespace("relay")}:{uplink}',
                '--control', str(self.state / f'{uplink}.sock'),
                '--seed', str(self.seed + self.uplinks.index(uplink)), '--mtu', str(self.mtu)]
        for name, value in self.settings.items():
            argv += [f'--{name.replace("_", "-")}', str(value)]
        # PDEATHSIG is sent when the starting *thread* ends, so it is for the main thread only.
        if not self.standing and threading.current_thread() is threading.main_thread():
            argv.append('--die-with-parent')
        with open(self.state / f'{uplink}.log', 'w+') as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=log, start_new_session=True)
            self._children.append(process)
            self._record('wan', process.pid)
            with process.stdout:
                ready = process.stdout.readline()
            if ready != b'ready\n':
                log.seek(0)
                raise LabError(log.read().strip() or f'{argv[0]}: ended at once')

    def _find_wan(self):
        named = self._wan_binary or os.environ.get('RORO_WAN')
        if named:
            path = pathlib.Path(named)
            for candidate in (path, path / 'wan', path / 'tests/lab/wan'):
                if candidate.is_file():
                    return str(candidate.resolve())
            raise LabError(f'no WAN emulator at {named}: build tests/lab/wan, or unset RORO_WAN')
        built = self.state / 'wan'
        if not built.exists():
            argv = ['cc', '-std=c11', '-D_GNU_SOURCE', '-O2', '-o', str(built)]
            argv += [str(SOURCES / name) for name in ('wan.c', 'wan_link.c', 'wan_control.c')]
            try:
                done = subprocess.run(argv, capture_output=True, text=True)
            except FileNotFoundError:
                raise LabError('no C compiler for the WAN emulator: install gcc, or name a built '
                               'one with RORO_WAN') from None
            if done.returncode != 0:
                raise LabError(f'cannot build the WAN emulator: {done.stderr.strip()}')
        return str(built)

    def command(self, line, uplink=0):
        """Sends one command to the emulator of an uplink; returns its answer without the 'ok'."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            try:
                control.connect(str(self.state / f'wan{uplink}.sock'))
                control.sendall(line.encode() + b'\n')
                answer = b''
                while not re.search(rb'(^|\n)(ok|error: [^\n]*)\n$', answer):
                    piece = control.recv(4096)
                    if not piece:
                        raise LabError(f'the emulator hung up on: {line}')
                    answer += piece
            except OSError as error:
                raise LabError(f"uplink wan{uplink} of lab '{self.name}' does not answer "
                               f'({error}): is the lab up?') from None
        *body, last = answer.decode().splitlines()
        if last != 'ok':
            raise LabError(last.removeprefix('error: '))
        return '\n'.join(body)

    def set(self, direction='both', uplink=0, **settings):
        """Changes the link while it runs: set('down', rate='10mbit', loss='1%')."""
        for name, value in settings.items():
            self.command(f'set {direction} {name.replace("_", "-")} {value}', uplink)

    def blackhole(self, on, direction='both', uplink=0):
        """While on, nothing that is on the link arrives and nothing enters it."""
        self.command(f'blackhole {"on" if on else "off"} {direction}', uplink)

    def stats(self, uplink=0):
        """The emulator's counters: {'up': {'packets': 1, ...}, 'down': {...}}."""
        result = {'up': {}, 'down': {}}
        for line in self.command('stats', uplink).splitlines():
            key, value = line.split()
            direction, name = key.split('.')
            result[direction][name] = int(value)
        return result

    # Programs and sockets on the hosts

    def popen(self, host, argv, **kw):
        """subprocess.Popen on a host, in a session of its own that down() ends with all in it."""
        kw.setdefault('start_new_session', True)
        with _uninterrupted():
            with self.in_namespace(host):
                process = subprocess.Popen(argv, **kw)
            self._children.append(process)
            self._record('child', process.pid)
        return process

    def run(self, host, argv, timeout=None, check=True, input=None, **kw):
        """subprocess.run on a host: output is captured as text unless asked for otherwise."""
        if not {'stdout', 'stderr'} & kw.keys():
            kw.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        kw.setdefault('text', True)
        if input is not None:
            kw['stdin'] = subprocess.PIPE
        process = self.popen(host, argv, **kw)
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            self.end(process)
            raise
        finally:
            self._children.remove(process)
        done = subprocess.CompletedProcess(argv, process.returncode, output, errors)
        if check and done.returncode != 0:
            raise LabError(f'{argv[0]} on {host} ended with {done.returncode}: '
                           f'{(errors or output or "")[-2000:]}')
        return done

    def end(self, process):
        """Ends a process of popen() and all in its session; returns its exit status."""
        running = {process.pid} if process.poll() is None else set()
        _end(running | self._members({process.pid}))
        return process.wait()

    @contextlib.contextmanager
    def on_one_core(self):
        """Keeps the lab's processes and this one on one core, and others off it, for the block.

        What a packet needs from end to end is then their work alone, and not how long a virtual
        machine takes to wake up another core for each of them, which can be many times as long,
        nor how long others compute. They run in real time meanwhile (SCHED_RR).
        """
        core = {min(os.sched_getaffinity(0))}
        realtime = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        before = {}
        try:
            for pid in self._recorded_processes() | {os.getpid()}:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                    for thread in map(int, os.listdir(f'/proc/{pid}/task')):
                        before[thread] = (os.sched_getaffinity(thread), os.sched_getscheduler(thread),
                                          os.sched_getparam(thread))
                        os.sched_setaffinity(thread, core)
                        os.sched_setscheduler(thread, os.SCHED_RR, realtime)
            yield
        finally:
            for thread, (cores, policy, parameter) in before.items():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(thread, policy, parameter)
                    os.sched_setaffinity(thread, cores)

    def sysctl(self, host, name, value):
        """Sets one, by its dotted name, on one host: sysctl('server', 'net.ipv4.tcp_sack', 0)."""
        with self.in_namespace(host):
            _write(name.replace('.', '/'), value)

    @contextlib.contextmanager
    def in_namespace(self, host):
        """Moves the calling thread, and no other, to a host for the length of the block."""
        try:
            there = os.open(f'/run/netns/{self.namespace(host)}', os.O_RDONLY)
        except FileNotFoundError:
            raise LabError(f"lab '{self.name}' is not up") from None
        back = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(back)
        finally:
            os.close(there)
            os.close(back)

    def listen(self, host, family=4, port=0, address='', backlog=1024):
        """A listening TCP socket on a host; port 0 takes a free one."""
        listener = self.socket(host, family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def socket(self, host, family=4, kind=socket.SOCK_STREAM, proto=0):
        """A socket on a host, family 4 or 6. It stays there, whichever thread uses it."""
        with self.in_namespace(host):
            return socket.socket({4: socket.AF_INET, 6: socket.AF_INET6}[family], kind, proto)

    # What we started, on record so that another process can end it

    def _record(self, what, pid):
        with open(self.state / 'processes', 'a') as file:
            file.write(f'{what} {pid} {_start_time(pid)}\n')

    def _records(self):
        try:
            lines = (self.state / 'processes').read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(what, int(pid), start) for what, pid, start in map(str.split, lines)]

    def _recorded_processes(self):
        records = [record for record in self._records() if record[0] != 'owner']
        alive = {pid for _, pid, start in records if _start_time(pid) == start}
        return alive | self._members({pid for _, pid, _ in records})

    def _members(self, leaders):
        """What runs in these sessions, of which the leader may be gone.

        Only in our own namespaces: so a session number that somebody else has by now is not
        mistaken for ours.
        """
        namespaces = set()
        for host in HOSTS:
            with contextlib.suppress(OSError):
                namespaces.add(os.stat(f'/run/netns/{self.namespace(host)}').st_ino)
        members = set()
        for pid in (int(entry) for entry in os.listdir('/proc') if entry.isdigit()):
            with contextlib.suppress(OSError):  # ended meanwhile
                if os.getsid(pid) in leaders and os.stat(f'/proc/{pid}/ns/net').st_ino in namespaces:
                    members.add(pid)
        return members

    def _owner_is_gone(self):
        owners = [record for record in self._records() if record[0] == 'owner']
        return bool(owners) and all(_start_time(pid) != start for _, pid, start in owners)


def sweep():
    """Takes down the labs of processes that were killed before they could do so themselves."""
    for state in STATE.glob('*/processes'):
        lab = Lab(state.parent.name)
        if lab._owner_is_gone():
            lab.down()


def _enter(fd):
    if _setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f'setns: {os.strerror(number)}')


def _write(path, value):
    pathlib.Path('/proc/sys', path).write_text(f'{value}\n')


def _allow_congestion():
    """A new namespace may only use what the initial one allows, and the list is global."""
    sysctl = pathlib.Path('/proc/sys/net/ipv4')
    allowed = (sysctl / 'tcp_allowed_congestion_control').read_text().split()
    available = (sysctl / 'tcp_available_congestion_control').read_text().split()
    wanted = [name for name in ('reno', 'cubic', 'bbr') if name in available]
    if not set(wanted) <= set(allowed):
        names = ' '.join(dict.fromkeys(allowed + wanted))
        (sysctl / 'tcp_allowed_congestion_control').write_text(names)


def _configure_host(host, congestion):
    """Sysctls of the namespace that the calling thread is in, before it has any interface."""
    for scope in ('all', 'default'):
        _write(f'net/ipv4/conf/{scope}/rp_filter', 0)
        _write(f'net/ipv6/conf/{scope}/accept_dad', 0)
        _write(f'net/ipv6/conf/{scope}/accept_ra', 0)
        _write(f'net/ipv6/conf/{scope}/router_solicitations', 0)
    # One run must not start from what the run before has learnt.
    _write('net/ipv4/tcp_no_metrics_save', 1)
    if host in ('gw', 'relay'):
        _write('net/ipv4/ip_forward', 1)
        _write('net/ipv6/conf/all/forwarding', 1)
        return
    try:
        _write('net/ipv4/tcp_congestion_control', congestion)
    except OSError:
        raise LabError(f"no congestion control '{congestion}': this kernel lacks it, or "
                       f"tcp_allowed_congestion_control does not list it") from None


@contextlib.contextmanager
def _uninterrupted():
    """Puts SIGINT and SIGTERM off until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = {number: signal.signal(number, lambda number, _: came.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _exit_on_sigterm():
    """By default SIGTERM ends Python without unwinding, and a lab would be left behind."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
