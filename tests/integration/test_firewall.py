# SPDX-License-Identifier: ISC
"""ro-ro-tcp-firewall between a client, a router and a server, each a network namespace.

The proxy is played by this file run as a program (see stand_in), so that the rules are tested
by themselves: it accepts, says where each connection was going, and echoes.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "..", "..", "netfilter", "ro-ro-tcp-firewall")
PORT = 9300
MARK = 0x10000000
HEARTBEAT = {4: ("ro-ro-tcp4", "0.0.0.0"), 6: ("ro-ro-tcp6", "::")}
SERVER = {4: "10.91.2.2", 6: "fd91:2::2"}
ROUTER_LAN = {4: "10.91.1.1", 6: "fd91:1::1"}
ROUTER_WAN = {4: "10.91.2.1", 6: "fd91:2::1"}
SERVER_PORTS = [21, 80, 443, 1720, 5060, 8005]


# --- the programs in the namespaces ------------------------------------------------------------

def original_destination(conn):
    """Where the connection was going, as conntrack has it. Not listed: that may miss an entry while
    others change theirs."""
    v6 = not conn.getpeername()[0].startswith("::ffff:")
    raw = conn.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, 80, 28)    # SO_ORIGINAL_DST
    address = raw[8:24] if v6 else raw[4:8]
    return [socket.inet_ntop(socket.AF_INET6 if v6 else socket.AF_INET, address),
            int.from_bytes(raw[2:4], "big")]


def beat(sign="+"):
    for name, zero in HEARTBEAT.values():
        with contextlib.suppress(OSError), open(f"/proc/self/net/xt_recent/{name}", "w") as f:
            f.write(f"{sign}{zero}\n")


def stand_in(name, ports, transparent, beats):
    """Accept on ports, report each connection as a JSON line, then echo until EOF."""
    def serve(conn, _):
        with conn, contextlib.suppress(OSError):
            local = [conn.getsockname()[0].removeprefix("::ffff:"), conn.getsockname()[1]]
            report = {"by": name, "local": local,
                      "original": original_destination(conn) if name == "proxy" else None}
            conn.sendall(json.dumps(report).encode() + b"\n")
            while data := conn.recv(65536):
                conn.sendall(data)

    def accept(listener):
        while True:
            threading.Thread(target=serve, args=listener.accept(), daemon=True).start()

    for port in ports:
        s = socket.socket(socket.AF_INET6)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if transparent:
            s.setsockopt(socket.IPPROTO_IPV6, 75, 1)    # IPV6_TRANSPARENT
        s.bind(("::", port))
        s.listen(64)
        threading.Thread(target=accept, args=(s,), daemon=True).start()
    print("ready", flush=True)
    threading.Thread(target=sys.stdin.read, daemon=True).start()
    if beats:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        while True:
            beat()
            # SIGUSR1 is the order to stop beating and withdraw.
            if signal.sigtimedwait([signal.SIGUSR1], 0.5):
                beat("-")
                print("withdrawn", flush=True)
                break
    signal.pause()


libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(ns):
    """Sockets made in here belong to the namespace ns."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    try:
        assert libc.setns(there, 0x40000000) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(home, 0x40000000) == 0
        os.close(home)
        os.close(there)


class Flow:
    """A client's connection, and what the one who took it reports."""

    def __init__(self, ns, addr, port, timeout=5):
        with inside(ns):
            self.s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
        self.s.settimeout(timeout)
        try:
            self.s.connect((addr, port))
            self.f = self.s.makefile("rb")
            self.report = json.loads(self.f.readline())
        except BaseException:
            self.s.close()
            raise
        self.by = self.report["by"]

    def echo(self, data=b"still here"):
        sender = threading.Thread(target=self.s.sendall, args=(data,))
        sender.start()
        got = self.f.read(len(data))
        sender.join()
        return got == data

    def close(self):
        self.f.close()
        self.s.close()


def by(net, addr, port=80):
    flow = Flow(net.client, addr, port)
    flow.close()
    return flow.by


def wait_for(what, condition, seconds=8):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for {what}"
        time.sleep(0.02)


# --- the network -------------------------------------------------------------------------------

class Net:
    serial = 0

    def __init__(self):
        Net.serial += 1
        base = f"rfw{os.getpid()}-{Net.serial}"
        self.client, self.router, self.server = base + "c", base + "r", base + "s"
        self.processes = []
        self.path = None    # put before PATH for the script

    def ip(self, *args):
        subprocess.run(["ip", *args], check=True)

    def build(self):
        for ns in (self.client, self.router, self.server):
            self.ip("netns", "add", ns)
            self.ip("-n", ns, "link", "set", "lo", "up")
            self.run("sysctl -qw net.ipv6.conf.default.accept_dad=0", ns=ns)
        for side, host, n in (("lan", self.client, 1), ("wan", self.server, 2)):
            self.ip("-n", self.router, "link", "add", side, "type", "veth", "peer", "name", "eth0",
                    "netns", host)
            for ns, dev, last in ((self.router, side, 1), (host, "eth0", 2)):
                # The server is in no network of the router's own: that would not be captured.
                alone = dev == "wan"
                self.ip("-n", ns, "addr", "add", f"10.91.{n}.{last}/{32 if alone else 24}", "dev", dev)
                self.ip("-n", ns, "addr", "add", f"fd91:{n}::{last}/{128 if alone else 64}", "dev",
                        dev, "nodad")
                self.ip("-n", ns, "link", "set", dev, "up")
        self.ip("-n", self.router, "route", "add", "10.91.2.0/24", "dev", "wan", "src", "10.91.2.1")
        self.ip("-n", self.router, "route", "add", "fd91:2::/64", "dev", "wan")
        for host, n in ((self.client, 1), (self.server, 2)):
            self.ip("-n", host, "route", "add", "default", "via", f"10.91.{n}.1")
            self.ip("-n", host, "-6", "route", "add", "default", "via", f"fd91:{n}::1")
        self.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                    "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.lan.rp_filter=0")
        # What `up` learns about the LAN must not change under the test: links come up slowly.
        wait_for("the links", lambda: "tentative" not in self.run("ip addr").stdout and
                 "state DOWN" not in self.run("ip link").stdout)
        self.start(self.server, "server", SERVER_PORTS)

    def destroy(self):
        for p in self.processes:
            p.kill()
            p.wait()
        for ns in (self.client, self.router, self.server):
            subprocess.run(["ip", "netns", "del", ns])

    def run(self, command, check=True, ns=None, **kw):
        """A shell command in the router."""
        env = dict(os.environ)
        if self.path:
            env["PATH"] = f"{self.path}:{env['PATH']}"
        p = subprocess.run(["ip", "netns", "exec", ns or self.router, "sh", "-c", command],
                           capture_output=True, text=True, env=env, **kw)
        assert not check or p.returncode == 0, f"{command}: {p.returncode}\n{p.stdout}{p.stderr}"
        return p

    def firewall(self, args, check=True):
        return self.run(f"{SCRIPT} {args}", check=check)

    def up(self, args=""):
        return self.firewall(f"up --lan lan {args}")

    def sysctl(self, *settings):
        self.run("sysctl -qw " + " ".join(settings))

    def start(self, ns, name, ports, transparent=False, beats=False):
        p = subprocess.Popen(["ip", "netns", "exec", ns, sys.executable, __file__, json.dumps(
            [name, ports, transparent, beats])], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True)
        self.processes.append(p)
        assert p.stdout.readline() == "ready\n"
        return p

    def proxy(self, capture="tproxy", beats=True):
        return self.start(self.router, "proxy", [PORT], capture == "tproxy", beats)

    def wait_alive(self, families=(4, 6)):
        for f in families:
            wait_for("a heartbeat", lambda f=f: "last_seen" in
                     self.run(f"cat /proc/self/net/xt_recent/{HEARTBEAT[f][0]}").stdout)

    def state(self):
        """All that `down` must leave as `up` found it."""
        out = []
        for command in ("iptables-save", "ip6tables-save", "ip rule", "ip -6 rule",
                        "ip route show table all", "ip -6 route show table all"):
            text = self.run(command).stdout
            text = "".join(line for line in text.splitlines(True) if not line.startswith("#"))
            out.append(command + "\n" + re.sub(r"\[\d+:\d+\]", "", text))
        return "\n".join(out)


@pytest.fixture
def net():
    if os.geteuid() != 0:
        pytest.fail("needs root: network namespaces")
    n = Net()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        n.build()
        yield n
    finally:
        n.destroy()
        signal.signal(signal.SIGTERM, before)


OTHERS = """*raw
:THEIRS - [0:0]
-A PREROUTING -j THEIRS
-A THEIRS -p udp --dport 53 -j CT --notrack
COMMIT
*mangle
:THEIRS - [0:0]
-A PREROUTING -i lan -j THEIRS
-A THEIRS -j MARK --set-xmark 0x7/0xff
-A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
-A PREROUTING -i lan -p tcp --dport 2222 -j REDIRECT --to-ports 22
-A POSTROUTING -o wan -p udp -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:THEIRS - [0:0]
:EMPTY - [0:0]
-A INPUT -p tcp --dport 22 -j ACCEPT
-A FORWARD -j THEIRS
-A THEIRS -j ACCEPT
COMMIT
"""


def add_others(net):
    for cmd in ("iptables-restore", "ip6tables-restore"):
        net.run(f"{cmd} -w", input=OTHERS)
    net.run("ip rule add pref 930 fwmark 0x7/0xff lookup 100; ip route add 192.0.2.0/24 via "
            "10.91.2.2 table 100; ip rule add pref 100 to 192.0.2.9 lookup main; "
            "ip -6 rule add pref 930 fwmark 0x7/0xff lookup 100; "
            "ip -6 route add 2001:db8::/32 via fd91:2::2 table 100; "
            "ip route add local 192.0.2.77/32 dev lo table 100")


ALL = "--exclude 203.0.113.0/24 --exclude 2001:db8:1::/48 --ports 80,443,8000:8010 --relay " \
      "10.91.2.9 --relay fd91:2::9 --notrack --reject-quic --mark 0x4000/0x4000 --table 77"


# --- what up and down leave --------------------------------------------------------------------

@pytest.mark.parametrize("others", [False, True], ids=["bare", "others"])
@pytest.mark.parametrize("options", ["", "--capture redirect", ALL, ALL + " --capture redirect",
                                     "--no-ipv6"])
def test_down_leaves_nothing(net, others, options):
    if others:
        add_others(net)
    before = net.state()
    net.up(options)
    assert net.state() != before
    net.firewall("down")
    assert net.state() == before
    net.firewall("down")
    assert net.state() == before


def test_others_survive_up(net):
    add_others(net)
    before = net.state()
    net.up(ALL)
    after = net.state()
    missing = [line for line in before.splitlines() if line and line not in after.splitlines()]
    assert missing == []


@pytest.mark.parametrize("options", ["", "--capture redirect", ALL])
def test_up_twice_is_up_once(net, options):
    add_others(net)
    net.up(options)
    once = net.state()
    net.up(options)
    assert net.state() == once


@pytest.mark.parametrize("second", ["", "--capture redirect", "--no-ipv6", ALL,
                                    "--mark 0x20/0x30 --table 4711 --lan lan,wan"])
@pytest.mark.parametrize("first", ["--capture tproxy --port 1234", ALL, "--capture redirect"])
def test_second_up_replaces_first(net, first, second):
    before = net.state()
    net.up(second)
    fresh = net.state()
    net.firewall("down")
    net.up(first)
    net.up(second)
    assert net.state() == fresh
    net.firewall("down")
    assert net.state() == before


@pytest.mark.parametrize("options", ["", ALL])
def test_dry_run_changes_nothing(net, options):
    before = net.state()
    p = net.up(options + " --dry-run")
    assert net.state() == before
    assert "[#] iptables-restore -w --noflush" in p.stdout and "-j TPROXY" in p.stdout
    net.up(options)
    up = net.state()
    p = net.firewall("down --dry-run")
    assert net.state() == up
    assert "[#] ip -4 rule del" in p.stdout and "-X RORO_PRE" in p.stdout


def test_commands_are_echoed(net):
    assert "[#] iptables-restore -w --noflush\n" in net.up().stderr
    p = net.firewall("down -q")
    assert p.stderr == "" and p.stdout == ""


@pytest.fixture
def wrap(net, tmp_path):
    """Put a shell script in the place of a program the firewall script runs."""
    def put(name, text):
        (tmp_path / name).write_text("#!/bin/sh\n" + text)
        (tmp_path / name).chmod(0o755)
        net.path = str(tmp_path)
    return put


@pytest.mark.parametrize("where", ["iptables-restore", "ip6tables-restore"])
@pytest.mark.parametrize("others", [False, True], ids=["bare", "others"])
def test_down_after_a_crash_halfway(net, wrap, where, others):
    if others:
        add_others(net)
    before = net.state()
    wrap(where, "case $* in *-V*) ;; *) kill -9 $PPID ;; esac\n")
    p = net.firewall("up --lan lan", check=False)
    assert p.returncode != 0
    net.path = None
    assert net.state() != before
    net.firewall("down")
    assert net.state() == before


def test_refused_rules_leave_nothing(net, wrap):
    add_others(net)
    before = net.state()
    wrap("ip6tables-restore", "grep -q TPROXY && exit 1; exit 0\n")
    p = net.firewall("up --lan lan", check=False)
    assert p.returncode == 1 and "IPv6 rules were refused" in p.stderr
    net.path = None
    assert net.state() == before


def test_somebody_moved_into_our_table(net):
    net.up()
    net.run("iptables -t mangle -A FORWARD -p udp -j MARK --set-mark 1; "
            "ip6tables -t mangle -N THEIRS")
    net.firewall("down")
    state = net.state()
    assert "-A FORWARD -p udp -j MARK" in state and ":THEIRS" in state and "RORO" not in state


@pytest.fixture
def legacy(net, wrap):
    for v in ("", "6"):
        for tool in ("", "-save", "-restore"):
            wrap(f"ip{v}tables{tool}", f'exec ip{v}tables-legacy{tool} "$@"\n')
    # A legacy table cannot be unloaded: have all of them there to begin with.
    for v in ("", "6"):
        for t in ("raw", "mangle", "nat", "filter"):
            net.run(f"ip{v}tables -w -t {t} -L -n >/dev/null")
    return net


@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_legacy_backend(legacy, capture):
    net = legacy
    add_others(net)
    before = net.state()
    net.up(f"--capture {capture}")
    once = net.state()
    net.up(f"--capture {capture}")
    assert net.state() == once
    net.proxy(capture)
    net.wait_alive()
    assert by(net, SERVER[4]) == by(net, SERVER[6]) == "proxy"
    net.firewall("down")
    assert net.state() == before


# --- the capture -------------------------------------------------------------------------------

@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_capture(net, capture, family):
    net.up(f"--capture {capture}")
    net.proxy(capture)
    net.wait_alive()
    flow = Flow(net.client, SERVER[family], 80)
    assert flow.by == "proxy"
    assert flow.report["original"] == [SERVER[family], 80]
    local = [SERVER[family], 80] if capture == "tproxy" else [ROUTER_LAN[family], PORT]
    assert flow.report["local"] == local
    assert flow.echo(os.urandom(2 << 20))
    flow.close()
    # The destination need not exist.
    nowhere = {4: "198.51.100.7", 6: "2001:db8::7"}[family]
    net.run("ip route add 198.51.100.0/24 via 10.91.2.2; ip -6 route add 2001:db8::/32 via fd91:2::2")
    flow = Flow(net.client, nowhere, 40000)
    assert flow.by == "proxy" and flow.report["original"] == [nowhere, 40000]
    flow.close()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_existing_flows_go_on(net, capture, family):
    old = Flow(net.client, SERVER[family], 80)
    net.up(f"--capture {capture}")
    net.proxy(capture)
    net.wait_alive()
    assert old.by == "server" and old.echo(os.urandom(1 << 20))
    assert by(net, SERVER[family]) == "proxy"
    assert old.echo()
    net.firewall("down")
    assert old.echo(os.urandom(1 << 20))
    assert by(net, SERVER[family]) == "server"
    old.close()


def test_captured_flow_survives_a_conntrack_flush(net):
    net.up()
    net.proxy()
    net.wait_alive()
    flows = [Flow(net.client, SERVER[f], 80) for f in (4, 6)]
    net.run("conntrack -F")
    assert all(flow.by == "proxy" and flow.echo(os.urandom(1 << 20)) for flow in flows)
    # The decision is in the connection mark again.
    assert len(net.run(f"conntrack -L -p tcp --mark {MARK}/{MARK}").stdout.splitlines()) >= 1


def test_captured_flow_survives_another_up(net):
    net.up()
    net.proxy()
    net.wait_alive()
    flows = [Flow(net.client, SERVER[f], 80) for f in (4, 6)]
    net.up("--mark 0x20/0x20 --table 77 --reject-quic")
    assert all(flow.echo(os.urandom(1 << 20)) for flow in flows)
    assert by(net, SERVER[4]) == by(net, SERVER[6]) == "proxy"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_the_routers_own_services(net, capture, family):
    net.start(net.router, "service", [8080])
    net.up(f"--capture {capture}")
    net.proxy(capture)
    net.wait_alive()
    assert by(net, ROUTER_LAN[family], 8080) == "service"
    assert by(net, ROUTER_WAN[family], 8080) == "service"
    with pytest.raises(ConnectionRefusedError):
        Flow(net.client, ROUTER_LAN[family], 8081)
    assert by(net, SERVER[family]) == "proxy"


def test_wan_side_is_not_captured(net):
    net.up()
    net.proxy()
    net.wait_alive()
    net.start(net.client, "lan-host", [7000])
    for addr in ("10.91.1.2", "fd91:1::2"):
        flow = Flow(net.server, addr, 7000)
        assert flow.by == "lan-host"
        flow.close()


@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_selection(net, capture):
    def taken(options):
        net.up(f"--capture {capture} {options}")
        net.wait_alive()
        return [[p for p in SERVER_PORTS if by(net, SERVER[f], p) == "proxy"] for f in (4, 6)]

    net.proxy(capture)
    usual = [80, 443, 8005]
    assert taken("") == [usual, usual]
    assert taken("--ports 443,8000:8010") == [[443, 8005]] * 2
    assert taken("--ports=21") == [[21]] * 2
    assert taken("--exclude 10.91.2.0/24") == [[], usual]
    assert taken("--exclude fd91:2::/64 --exclude 192.0.2.0/24") == [usual, []]
    assert taken(f"--relay {SERVER[4]}") == [[], usual]
    assert taken(f"--relay {SERVER[6]} --relay {SERVER[4]}") == [[], []]
    net.up(f"--capture {capture} --no-ipv6")
    net.wait_alive([4])
    assert by(net, SERVER[4]) == "proxy" and by(net, SERVER[6]) == "server"


def test_networks_of_the_router_are_spared(net):
    """Another LAN, or the modem, is no destination for a relay far away."""
    net.up()
    net.proxy()
    net.wait_alive()
    assert by(net, SERVER[4]) == by(net, SERVER[6]) == "proxy"
    net.run("ip addr add 10.91.2.3/24 dev wan; ip addr add fd91:2::3/64 dev wan nodad")
    net.up()
    assert by(net, SERVER[4]) == by(net, SERVER[6]) == "server"


@pytest.mark.parametrize("cmd,family", [("iptables", 4), ("ip6tables", 6)])
def test_other_bits_of_the_marks_are_kept(net, cmd, family):
    net.run(f"{cmd} -t mangle -A PREROUTING -i lan -j MARK --set-xmark 0x7/0xff; "
            f"{cmd} -t mangle -A PREROUTING -i lan -j CONNMARK --set-xmark 0x500/0xf00; "
            f"{cmd} -t mangle -A INPUT -p tcp -m mark --mark {MARK | 7}; "
            f"{cmd} -t mangle -A INPUT -i lan -p tcp --dport 80 -m mark ! --mark {MARK | 7}")
    net.up()
    net.proxy()
    net.wait_alive()
    flow = Flow(net.client, SERVER[family], 80)
    assert flow.by == "proxy" and flow.echo(os.urandom(100000))
    counts = [int(c) for c in re.findall(r"\[(\d+):\d+\] -A INPUT .*-m mark",
                                         net.run(f"{cmd}-save -c -t mangle").stdout)]
    assert counts[0] > 5 and counts[1] == 0
    entries = net.run(f"conntrack -L -f ipv{family} -p tcp --orig-port-dst 80").stdout
    assert f"mark={MARK | 0x500}" in entries


def test_default_deny_input(net):
    for cmd in ("iptables", "ip6tables"):
        net.run(f"{cmd} -P INPUT DROP; {cmd} -A INPUT -p ipv6-icmp -j ACCEPT; {cmd} -A INPUT -i lo -j ACCEPT")
    for capture in ("tproxy", "redirect"):
        net.up(f"--capture {capture}")
        p = net.proxy(capture)
        net.wait_alive()
        for f in (4, 6):
            flow = Flow(net.client, SERVER[f], 80)
            assert flow.by == "proxy" and flow.echo()
            flow.close()
            with pytest.raises(TimeoutError):   # the proxy's port itself stays shut
                Flow(net.client, ROUTER_LAN[f], PORT, timeout=0.5)
        p.kill()
        p.wait()


@pytest.mark.parametrize("cmd,family,to", [("iptables", 4, "10.91.2.2"), ("ip6tables", 6, "[fd91:2::2]")])
@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
@pytest.mark.parametrize("match", ["-i lan -p tcp -m tcp --dport 81", "! -i wan -p tcp -m tcp --dport 81",
                                   "-i la+ -p tcp -m tcp --dport 81", "-i lan ! -p udp"])
def test_foreign_port_forward_is_left_alone(net, capture, cmd, family, to, match):
    net.run("ip route add 198.51.100.0/24 via 10.91.2.2; ip -6 route add 2001:db8::/32 via fd91:2::2")
    far = {4: "198.51.100.7", 6: "2001:db8::7"}[family]
    port = ":80" if "--dport" in match else ""
    net.run(f"{cmd} -t nat -A PREROUTING -d {far} {match} -j DNAT --to-destination {to}{port}")
    net.up(f"--capture {capture}")
    net.proxy(capture)
    net.wait_alive()
    flow = Flow(net.client, far, 81 if port else 80)
    assert flow.by == "server" and flow.echo(os.urandom(100000))
    flow.close()
    assert by(net, far if port else SERVER[family], 82 if port else 80) == "proxy"


def test_foreign_forward_in_a_chain_is_named(net):
    net.run("iptables -t nat -N PORTAL; iptables -t nat -A PREROUTING -i lan -j PORTAL; "
            "iptables -t nat -A PORTAL -p tcp --dport 80 -j REDIRECT --to-ports 8080")
    p = net.firewall("check --lan lan")
    assert "-A PORTAL -p tcp -m tcp --dport 80 -j REDIRECT" in p.stderr


def nft(net, table, *lines):
    net.run("nft -f -", input=f"table inet {table} {{ chain c {{\n" + "\n".join(lines) + "\n}\n}\n")


def test_forward_of_nft_is_named(net):
    nft(net, "theirs", "type nat hook prerouting priority -100;", "tcp dport 81 redirect to :82")
    assert "nft table inet theirs" in net.firewall("check --lan lan").stderr
    assert "nft table" not in net.firewall("check --lan lan --capture redirect").stderr


INPUT = "type filter hook input priority 0;"


@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
@pytest.mark.parametrize("lines", [[INPUT + " policy drop;", 'iifname "wan" accept'],
                                   [INPUT, "ct state established accept", "counter reject with icmpx admin-prohibited"]])
def test_table_that_drops_captured_packets_is_named(net, capture, lines):
    """Ours can't let in what another table drops: with the rules, the LAN would be cut off."""
    nft(net, "theirs", *lines)
    before = net.state()
    for command in ("check", "up"):
        p = net.firewall(f"{command} --lan lan --capture {capture}", check=False)
        assert p.returncode == 1 and "nft table inet theirs" in p.stderr and "--input-open" in p.stderr
    assert net.state() == before
    net.up(f"--input-open --capture {capture}")


@pytest.mark.parametrize("lines", [[INPUT + " policy drop;", 'iifname { "lo", "lan" } accept'],
                                   [INPUT + " policy drop;", "meta mark & 0x10000000 == 0x10000000 accept"],
                                   [INPUT, "ct state invalid drop", "ip saddr 192.0.2.1 reject"],
                                   ["type filter hook forward priority 0; policy drop;"],
                                   ["type nat hook input priority 0;"]])
def test_table_that_lets_captured_packets_in(net, lines):
    nft(net, "theirs", *lines)
    net.run("iptables -P INPUT DROP")
    net.run("nft -f -", input="table arp x { chain c {\ntype filter hook input priority 0; policy drop;\naccept\n}\n}\n")
    net.up()
    net.proxy()
    net.wait_alive()
    assert by(net, SERVER[4]) == "proxy"


def test_quic_is_rejected_only_while_capturing(net):
    def quic(addr):
        with inside(net.client):
            s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_DGRAM)
        with s:
            s.settimeout(3)
            s.connect((addr, 443))
            s.send(b"x")
            try:
                return s.recv(10)
            except ConnectionRefusedError:
                return "refused"

    # An answering server, so that "not refused" is seen and not waited for.
    answer = subprocess.Popen(["ip", "netns", "exec", net.server, sys.executable, "-c", (
        "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.bind(('::', 443)); print('ready', flush=True)\n"
        "while True: d, a = s.recvfrom(99); s.sendto(b'yes', a)")], stdout=subprocess.PIPE, text=True)
    net.processes.append(answer)
    assert answer.stdout.readline() == "ready\n"
    net.up("--reject-quic")
    assert [quic(SERVER[f]) for f in (4, 6)] == [b"yes", b"yes"]
    net.proxy()
    net.wait_alive()
    assert [quic(SERVER[f]) for f in (4, 6)] == ["refused", "refused"]


def test_notrack_leaves_stripes_untracked(net):
    for cmd in ("iptables", "ip6tables"):
        net.run(f"{cmd} -P INPUT DROP; {cmd} -A INPUT -p ipv6-icmp -j ACCEPT; "
                f"{cmd} -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    net.start(net.server, "relay", [9301])
    net.up(f"--notrack --relay {SERVER[4]} --relay {SERVER[6]}")
    for f in (4, 6):
        stripe = Flow(net.router, SERVER[f], 9301)
        assert stripe.by == "relay" and stripe.echo(os.urandom(100000))
        assert "dport=9301" not in net.run(f"conntrack -L -f ipv{f}").stdout
        stripe.close()


# --- fail open ---------------------------------------------------------------------------------

@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_no_proxy_yet_means_direct(net, capture):
    net.up(f"--capture {capture}")
    assert by(net, SERVER[4]) == by(net, SERVER[6]) == "server"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("capture", ["tproxy", "redirect"])
def test_killed_proxy_means_direct_soon(net, capture, family):
    net.up(f"--capture {capture} --alive 2")
    p = net.proxy(capture)
    net.wait_alive()
    assert by(net, SERVER[family]) == "proxy"
    p.kill()
    p.wait()
    killed = time.monotonic()

    def direct():
        try:
            return Flow(net.client, SERVER[family], 80, timeout=0.5).by == "server"
        except OSError:
            return False
    wait_for("connections to go direct", direct, 4)
    assert time.monotonic() - killed < 3


def test_connect_during_the_gap_succeeds_late(net):
    """The client's own repeated SYN finds the way: no connection fails because the proxy died."""
    net.up("--alive 2")
    p = net.proxy()
    net.wait_alive()
    p.kill()
    p.wait()
    flow = Flow(net.client, SERVER[4], 80, timeout=10)
    assert flow.by == "server"
    flow.close()


def test_withdrawn_heartbeat_means_direct_at_once(net):
    """What the daemon does when it stops: new connections direct, the captured ones go on."""
    net.up("--alive 60")
    p = net.proxy()
    net.wait_alive()
    flows = [Flow(net.client, SERVER[f], 80) for f in (4, 6)]
    pid = int(net.run("ss -Hltnp 'sport = :9300'").stdout.split("pid=")[1].split(",")[0])
    os.kill(pid, signal.SIGUSR1)
    assert p.stdout.readline() == "withdrawn\n"
    assert by(net, SERVER[4]) == by(net, SERVER[6]) == "server"
    assert all(f.by == "proxy" and f.echo(os.urandom(1 << 20)) for f in flows)


@pytest.mark.parametrize("family", [4, 6])
def test_without_the_gate_xt_tproxy_drops(net, family):
    """--alive 0 is for a proxy that does not report itself alive: nothing then saves the LAN."""
    net.up("--alive 0")
    with pytest.raises(TimeoutError):
        Flow(net.client, SERVER[family], 80, timeout=1.5)
    p = net.proxy(beats=False)
    assert by(net, SERVER[family]) == "proxy"
    p.kill()
    p.wait()
    with pytest.raises(TimeoutError):
        Flow(net.client, SERVER[family], 80, timeout=1.5)
    net.firewall("down")
    assert by(net, SERVER[family]) == "server"


def test_heartbeat_survives_another_up_and_belongs_to_the_user(net):
    net.up("--alive 60 --user nobody")
    p = net.proxy()
    net.wait_alive()
    p.kill()
    p.wait()
    net.up("--alive 60 --user nobody --reject-quic")
    out = net.run("ls -l /proc/self/net/xt_recent/; cat /proc/self/net/xt_recent/ro-ro-tcp[46]").stdout
    assert out.count(" nobody ") == 2 and out.count("last_seen") == 2
    net.run("setpriv --reuid nobody --clear-groups sh -c 'echo -0.0.0.0 > /proc/self/net/xt_recent/ro-ro-tcp4'")
    assert by(net, SERVER[4]) == "server"


# --- check, status, arguments ------------------------------------------------------------------

@pytest.mark.parametrize("options", ["", "--lan lan", "--lan lan --capture redirect",
                                     "--lan lan --reject-quic --notrack --relay 192.0.2.1"])
def test_check_on_a_good_host(net, options):
    before = net.state()
    p = net.firewall(f"check {options}")
    assert "problem" not in p.stderr
    assert net.state() == before


@pytest.mark.parametrize("setting", ["net.ipv4.conf.lan.src_valid_mark=1",
                                     "net.ipv4.conf.all.src_valid_mark=1",
                                     "net.ipv4.conf.lan.rp_filter=1", "net.ipv4.conf.all.rp_filter=1"])
def test_reverse_path_sysctls_are_named_and_do_no_harm(net, setting):
    assert setting not in net.firewall("check --lan lan").stderr
    net.sysctl(setting)
    assert setting in net.firewall("check --lan lan").stderr
    net.sysctl("net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.all.src_valid_mark=1")
    net.up()
    net.proxy()
    net.wait_alive()
    assert by(net, SERVER[4]) == "proxy"


@pytest.mark.parametrize("spoil,message", [
    ("sysctl -qw net.ipv4.ip_forward=0", "sysctl -w net.ipv4.ip_forward=1"),
    ("sysctl -qw net.ipv6.conf.all.forwarding=0", "sysctl -w net.ipv6.conf.all.forwarding=1"),
    ("ip link set lo down", "ip link set lo up"),
    ("ip route add 192.0.2.0/24 via 10.91.2.2 table 9300", "--table"),
    ("ip link del lan", 'no interface "lan"'),
])
def test_check_and_up_name_the_problem(net, spoil, message):
    net.run(spoil)
    before = net.state()
    for command in ("check", "up"):
        p = net.firewall(f"{command} --lan lan", check=False)
        assert p.returncode == 1 and "problem:" in p.stderr and message in p.stderr
    assert net.state() == before


@pytest.mark.parametrize("feature,module", [("-j TPROXY", "xt_TPROXY"), ("-m socket", "xt_socket"),
                                            ("-m recent", "xt_recent"), ("-j CONNMARK", "xt_connmark")])
def test_check_names_missing_features(net, wrap, feature, module):
    wrap("ip6tables-restore", f"t=$(cat); case $t in *'{feature}'*) exit 1 ;; esac\n")
    p = net.firewall("check --lan lan", check=False)
    assert p.returncode == 1
    assert f"no {module} for IPv6: modprobe {module}" in p.stderr
    assert "for IPv4" not in p.stderr


def test_bridge_netfilter_is_named(net):
    key = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    net.run("ip link add br-lan type bridge; ip link set br-lan up")
    if net.run(f"test -e {key}", check=False).returncode:
        pytest.fail("this kernel has no br_netfilter in a namespace: the check is not tested")
    net.run(f"echo 1 > {key}")
    assert "net.bridge.bridge-nf-call-iptables=1" in net.firewall("check --lan br-lan").stderr
    net.run(f"echo 0 > {key}")
    assert "bridge-nf-call-iptables" not in net.firewall("check --lan br-lan").stderr


@pytest.mark.parametrize("setting", ["yes", "no"])
def test_networkd_is_named(net, setting):
    """It takes foreign policy rules away, unless it is told not to."""
    p = net.run("unshare -m sh -c 'mount -t tmpfs none /run && mkdir -p /run/systemd/netif /run/systemd/networkd.conf.d"
                f" && echo ManageForeignRoutingPolicyRules={setting} > /run/systemd/networkd.conf.d/x.conf"
                f" && exec {SCRIPT} check --lan lan'")
    assert ("systemd-networkd will take" in p.stderr) == (setting == "yes")


def test_status_after_another_firewall_was_reloaded(net):
    """The rules that capture are still there; those that let captured packets in are not."""
    net.up()
    net.run("iptables -P INPUT DROP; iptables -F; iptables -X")
    p = net.firewall("status", check=False)
    assert p.returncode == 1
    assert "IPv4: up:" in p.stdout and "IPv4: somebody has taken away our rules in INPUT" in p.stdout
    assert "IPv6: somebody" not in p.stdout
    net.up()
    assert "somebody" not in net.firewall("status").stdout


def test_status(net):
    p = net.firewall("status", check=False)
    assert p.returncode == 3 and p.stdout == "IPv4: down\nIPv6: down\n"
    net.up()
    assert net.firewall("status").stdout.count("new connections go direct") == 2
    net.proxy()
    net.wait_alive()
    flow = Flow(net.client, SERVER[4], 80)
    out = net.firewall("status").stdout
    assert "IPv4: up: capture=tproxy port=9300 mark=0x10000000/0x10000000 table=9300 alive=3 lan=lan" in out
    assert out.count("new connections are captured") == 2
    assert "IPv4: captured connections in the conntrack table: 1" in out
    flow.close()
    net.run("ip rule del pref 930")
    p = net.firewall("status", check=False)
    assert p.returncode == 1 and "up again" in p.stdout


@pytest.mark.parametrize("args,value", [
    ("", "say what to do"), ("sideways", "sideways"), ("up", "--lan"), ("up --lan", "--lan"),
    ("up --lan ''", "--lan"), ("up --lan lan/0", "lan/0"), ("up --lan 'l*'", "l*"),
    ("up --lan lan+", "lan+"), ("up --lan abcdefghijklmnop", "abcdefghijklmnop"),
    ("up --lan lan --port 0", "0"), ("up --lan lan --port 65536", "65536"),
    ("up --lan lan --port 09300", "09300"), ("up --lan lan --port http", "http"),
    ("up --lan lan --capture magic", "magic"), ("up --lan lan --mark 1", "1"),
    ("up --lan lan --mark 0/1", "0/1"), ("up --lan lan --mark 2/1", "2/1"),
    ("up --lan lan --mark 0x1ffffffff/0x1ffffffff", "0x1ffffffff/0x1ffffffff"),
    ("up --lan lan --mark 0xg/0xf", "0xg/0xf"), ("up --lan lan --table 254", "254"),
    ("up --lan lan --table main", "main"), ("up --lan lan --ports ,", ","),
    ("up --lan lan --ports 80,x", "x"), ("up --lan lan --ports 90:80", "90:80"),
    ("up --lan lan --ports 1:2:3", "1:2:3"), ("up --lan lan --ports '*'", "*"),
    ("up --lan lan --exclude 10.0.0.0/33", "10.0.0.0/33"),
    ("up --lan lan --exclude 10.0.0.256", "10.0.0.256"),
    ("up --lan lan --exclude fe80::/129", "fe80::/129"),
    ("up --lan lan --exclude 1::2::3", "1::2::3"), ("up --lan lan --exclude 12345::", "12345::"),
    ("up --lan lan --relay example.com", "example.com"),
    ("up --lan lan --relay 192.0.2.0/24", "192.0.2.0/24"), ("up --lan lan --relay '10.0.0.1; id'", "10.0.0.1; id"),
    ("up --lan lan --alive -1", "-1"), ("up --lan lan --user no-such-user", "no-such-user"),
    ("up --lan lan --notrack", "--relay"), ("up --lan lan --frobnicate", "--frobnicate"),
    ("up --lan lan extra", "extra"), ("down --lan lan", "--lan"), ("status x", "x"),
])
def test_bad_arguments(net, args, value):
    before = net.state()
    p = net.firewall(args, check=False)
    assert p.returncode == 2 and p.stdout == ""
    assert len(p.stderr.splitlines()) == 1 and value in p.stderr
    assert net.state() == before


def test_good_addresses(net):
    good = ["0.0.0.0/0", "10.0.0.0/9", "10.1.2.3", "::/0", "::", "1::", "fd00::/8",
            "2001:db8:1:2:3:4:5:6", "::1:2", "fe80::1/128"]
    net.up(" ".join(f"--exclude {a}" for a in good))


def test_not_root(net):
    # Root reads it: the checkout may be where nobody else can go.
    p = net.run(f'setpriv --reuid nobody --clear-groups sh -c "$(cat {SCRIPT})" ro-ro-tcp-firewall up --lan lan '
                "< /dev/null", check=False)
    assert p.returncode == 1 and p.stderr == "ro-ro-tcp-firewall: must be run as root\n"


def test_missing_tool(net):
    p = net.run("unshare -m sh -c 'mount --bind /dev/null \"$(readlink -f \"$(command -v iptables-restore)\")\" "
                f"&& exec {SCRIPT} up --lan lan'", check=False)
    assert p.returncode == 1
    assert p.stderr == "ro-ro-tcp-firewall: iptables-restore is not installed: apt install iptables\n"


@pytest.mark.parametrize("command", [["dash", "-n"], ["shellcheck"]])
def test_script_is_clean(command):
    p = subprocess.run([*command, SCRIPT], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr


if __name__ == "__main__":
    stand_in(*json.loads(sys.argv[1]))
