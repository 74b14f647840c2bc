# SPDX-License-Identifier: ISC
"""Where one measurement takes place: a lab, and the programs in it that carry the flows."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import time

from labnet import HOSTS, Lab, _ip

PORT = 9000        # the server's; the rival's is the next one
FORWARD_PORT = 7000  # where those peers listen on the gateway that clients have to be told of
# One more address of the server, for flows that nothing captures.
DIRECT = '10.77.3.3'
PATIENCE = 15      # seconds: for what takes long only when it is broken


class MeasureError(Exception):
    """A measurement that did not come about, and why."""


def wait_for(what, condition, seconds=PATIENCE):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise MeasureError(f'waited {seconds} s in vain for {what}')
        time.sleep(0.01)


class BareLab(Lab):
    """A lab whose WAN is a veth pair: as fast as the processor, without delay and losses."""

    def _start_wan(self, uplink):
        _ip(f'link add {uplink} netns {self.namespace("gw")} type veth '
            f'peer name {uplink} netns {self.namespace("relay")}')

    def stats(self, uplink=0):
        return {'up': {}, 'down': {}}


def _ports(table, states):
    ports = set()
    for line in pathlib.Path('/proc/thread-self/net', table).read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] in states:
            ports.add(int(fields[1].rpartition(':')[2], 16))
    return ports


def cpu_seconds(pid):
    """User and system time of a process with all its threads; 0 once it is gone."""
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


class Setting:
    """A lab and the programs of one variant. As a context manager it is gone after the block."""

    def __init__(self, lab, link, program):
        self.lab = lab
        self.link = link
        self.program = program  # ro-ro-tcp
        self.daemons = {}       # 'gw', 'relay' -> the process that carries the flows there
        self.folder = None
        self._logs = {}

    def __enter__(self):
        # Another user's daemon has to reach its control socket in here.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='ro-ro-tcp-bench-'))
        self.folder.chmod(0o755)
        try:
            self.lab.up()
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(self, *_):
        self.lab.down()
        shutil.rmtree(self.folder)

    def start(self, host, argv):
        """Starts the program that carries the flows on a host."""
        self._logs[host] = self.folder / f'{host}.log'
        with open(self._logs[host], 'w') as log:
            self.daemons[host] = self.lab.popen(host, [str(word) for word in argv], stdout=log,
                                                stderr=log)

    def log(self, host):
        return self._logs[host].read_text(errors='replace')

    def _check_alive(self, host):
        if self.daemons[host].poll() is not None:
            raise MeasureError(f'{self.daemons[host].args[0]} on {host} ended: '
                               f'{" / ".join(self.log(host).splitlines()[-3:])}')

    def wait_listening(self, host, port, protocol='tcp'):
        """Until a port is open on a host, or the program that should open it has ended."""
        states = {'tcp': {'0A'}, 'udp': {'07'}}[protocol]

        def listening():
            self._check_alive(host)
            with self.lab.in_namespace(host):
                return any(port in _ports(table, states) for table in (protocol, f'{protocol}6'))

        wait_for(f'port {port} on {host}', listening)

    def wait_ready(self, host, line):
        """Until the log of a host's program has a line."""
        def said():
            self._check_alive(host)
            return line in self.log(host)

        wait_for(f"'{line}' in the log of {host}", said)

    def check_alive(self):
        for host in self.daemons:
            self._check_alive(host)

    def congestion(self, name, *hosts):
        for host in hosts:
            self.lab.sysctl(host, 'net.ipv4.tcp_congestion_control', name)

    def cpu(self):
        """Seconds of processor time so far: {'gw': ..., 'relay': ...}."""
        return {host: cpu_seconds(process.pid) for host, process in self.daemons.items()}

    def memory(self):
        """Bytes of memory of the programs, shared pages by their share: {'gw': ..., ...}."""
        result = {}
        for host, process in self.daemons.items():
            for line in pathlib.Path(f'/proc/{process.pid}/smaps_rollup').read_text().splitlines():
                if line.startswith('Pss:'):
                    result[host] = int(line.split()[1]) * 1024
        return result

    def descriptors(self):
        return {host: len(os.listdir(f'/proc/{process.pid}/fd'))
                for host, process in self.daemons.items()}

    def read(self, host, path):
        """A file of /proc/net as a host sees it."""
        with self.lab.in_namespace(host), contextlib.suppress(FileNotFoundError):
            return pathlib.Path('/proc/thread-self/net', path).read_text()
        return ''


def make_lab(link, name):
    """The lab of a link, not up yet."""
    if link.bare:
        return BareLab(name)
    return Lab(name, rate=f'{link.rate}mbit', delay=f'{link.rtt * 500}us', queue=link.queue,
               loss=f'{link.loss}%', burst=link.burst)


def equip(lab, buffers=None):
    """What all hosts of a measurement have in common."""
    with lab.in_namespace('server'):
        _ip(f'addr add {DIRECT}/24 dev eth0')
    for host in HOSTS:
        # Enough ports for many short connections in a row.
        lab.sysctl(host, 'net.ipv4.ip_local_port_range', '10000 65535')
        lab.sysctl(host, 'net.ipv4.tcp_tw_reuse', 1)
        if buffers:
            lab.sysctl(host, 'net.ipv4.tcp_wmem', f'4096 16384 {buffers}')
            lab.sysctl(host, 'net.ipv4.tcp_rmem', f'4096 131072 {buffers}')
