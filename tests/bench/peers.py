# SPDX-License-Identifier: ISC
"""The variants: each knows how to set itself up in a lab, and how to tell that it was used."""

import json
import pwd
import socket

import prepare
from labnet import ADDRESSES, GW_LAN
from setting import DIRECT, FORWARD_PORT, PORT, MeasureError, wait_for

GW, RELAY, SERVER = ADDRESSES['gw'][0], ADDRESSES['relay'][0], ADDRESSES['server'][0]
FIREWALL = prepare.TOP / 'netfilter' / 'ro-ro-tcp-firewall'
WAN_PORT = 7001


class Variant:
    """A way from client to server. `group` is direct, ours, peer, or bound (no gateway at all)."""

    group = 'peer'
    package = None      # without which it cannot be
    target = SERVER, PORT
    wrap = ()           # words before the client's and server's command
    has_daemons = True  # whose processor time and memory can be measured

    def __init__(self, name, congestion):
        self.name = name
        self.congestion = congestion

    def set_up(self, setting):
        raise NotImplementedError

    def check(self, setting, flows):
        """After `flows` connections: was it really used? Returns what tells so."""
        setting.check_alive()
        return {}


class Direct(Variant):
    group = 'direct'
    has_daemons = False

    def set_up(self, setting):
        setting.congestion(self.congestion, 'client', 'server')


class Ours(Variant):
    """ro-ro-tcp: captured on the gateway by its firewall script, nothing set on the client."""

    group = 'ours'

    def __init__(self, name, congestion=None, options=(), relay_options=()):
        """congestion None: what the daemons choose by themselves."""
        super().__init__(name, congestion)
        self.options = list(options)
        self.relay_options = list(relay_options)

    def set_up(self, setting):
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = 'ro-ro-tcp' if 'ro-ro-tcp' in names else 'nobody'
        choice = ['--congestion', self.congestion] if self.congestion else []
        common = ['--user', user, '--grace', '0', *choice]
        setting.start('relay', [setting.program, 'relay', '--insecure', *common,
                                *self.relay_options,
                                '--control', setting.folder / 'relay' / 'control'])
        setting.wait_ready('relay', 'ready: relay on ')
        setting.start('gw', [setting.program, 'proxy', '--relay', RELAY, *common, *self.options,
                             '--control', setting.folder / 'proxy' / 'control'])
        setting.wait_ready('gw', 'ready: proxy on ')
        setting.lab.run('gw', [FIREWALL, 'up', '-q', '--user', user, '--lan', 'lan0',
                               '--relay', RELAY, '--exclude', f'{DIRECT}/32'])
        # Connections are captured from the proxy's next sign of life on.
        wait_for("the proxy's sign of life", lambda: setting.read('gw', 'xt_recent/ro-ro-tcp4'))

    @staticmethod
    def _status(setting, role):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(str(setting.folder / role / 'control'))
            return json.loads(b''.join(iter(lambda: control.recv(65536), b'')))

    def check(self, setting, flows):
        super().check(setting, flows)
        proxy = self._status(setting, 'proxy')
        carried = proxy['counters']['flows_total']
        if carried < flows:
            raise MeasureError(f'{flows} flows, of which the proxy saw {carried}: not captured')
        names = ('flows_total', 'flows_refused', 'flows_reset', 'stripes_total', 'stripes_lost',
                 'stripes_reused', 'bytes_spliced', 'datagrams_out', 'datagrams_in')
        told = {name: proxy['counters'].get(name) for name in names}
        return {'congestion': proxy['congestion'], 'splice': proxy['splice'], 'proxy': told}


class Haproxy(Variant):
    """Two in a chain; clients connect to the gateway's."""

    package = 'haproxy'
    target = GW_LAN[0], FORWARD_PORT

    CONFIGURATION = '''
global
    maxconn 6000
    maxpipes 1000
defaults
    mode tcp
    option splice-auto
    timeout connect 15s
    timeout client 1h
    timeout server 1h
listen forward
    bind {here} backlog 4096
    server next {there}
'''

    def set_up(self, setting):
        setting.congestion(self.congestion, 'gw', 'relay')
        self._start(setting, 'relay', f'{RELAY}:{WAN_PORT}', f'{SERVER}:{PORT}')
        self._start(setting, 'gw', f'{GW_LAN[0]}:{FORWARD_PORT}', f'{RELAY}:{WAN_PORT}')
        setting.wait_listening('relay', WAN_PORT)
        setting.wait_listening('gw', FORWARD_PORT)

    def _start(self, setting, host, here, there):
        file = setting.folder / f'{host}.cfg'
        file.write_text(self.CONFIGURATION.format(here=here, there=there))
        setting.start(host, ['haproxy', '-db', '-f', file])


class Shadowsocks(Variant):
    """ss-redir on the gateway behind a REDIRECT rule, ss-server on the relay."""

    package = 'shadowsocks-libev'

    def set_up(self, setting):
        setting.congestion(self.congestion, 'gw', 'relay')
        common = ['-s', RELAY, '-p', WAN_PORT, '-k', 'bench', '-m', 'aes-128-gcm', '-t', 3600,
                  '-n', 20000, '--no-delay']
        setting.start('relay', ['ss-server', *common])
        setting.start('gw', ['ss-redir', *common, '-b', '0.0.0.0', '-l', FORWARD_PORT])
        setting.lab.run('gw', ['iptables', '-t', 'nat', '-A', 'PREROUTING', '-i', 'lan0',
                               '-p', 'tcp', '-d', SERVER, '--dport', str(PORT),
                               '-j', 'REDIRECT', '--to-ports', str(FORWARD_PORT)])
        setting.wait_listening('relay', WAN_PORT)
        setting.wait_listening('gw', FORWARD_PORT)

    def check(self, setting, flows):
        super().check(setting, flows)
        rule = setting.lab.run('gw', ['iptables', '-t', 'nat', '-vxnL', 'PREROUTING']).stdout
        packets = int(rule.splitlines()[2].split()[0])
        if packets < flows:
            raise MeasureError(f'{flows} flows, of which {packets} were redirected')
        return {'redirected': packets}


class Kcptun(Variant):
    """KCP over UDP between gateway and relay; clients connect to the gateway's port.

    It has no congestion control: its windows say how much is under way. `tuned` makes them fit the
    link, as somebody would who knows it.
    """

    package = 'kcptun'
    target = GW_LAN[0], FORWARD_PORT

    def __init__(self, name, mode, tuned):
        super().__init__(name, f'kcp {mode}')
        self.mode = mode
        self.tuned = tuned

    @staticmethod
    def _tuning(link):
        window = 8192 if link.bare else max(128, int(1.5 * link.bdp / 1350))
        return ['--sndwnd', window, '--rcvwnd', window, '--sockbuf', 16777216, '--smuxver', 2,
                '--smuxbuf', 67108864, '--streambuf', 33554432, '--nocomp', '--crypt', 'none']

    def set_up(self, setting):
        common = ['--key', 'bench', '--quiet', '--mode', self.mode]
        if self.tuned:
            common += self._tuning(setting.link)
        setting.start('relay', ['kcptun-server', '-l', f'{RELAY}:{WAN_PORT}',
                                '-t', f'{SERVER}:{PORT}', *common])
        setting.wait_listening('relay', WAN_PORT, 'udp')
        setting.start('gw', ['kcptun-client', '-l', f'{GW_LAN[0]}:{FORWARD_PORT}',
                             '-r', f'{RELAY}:{WAN_PORT}', *common])
        setting.wait_listening('gw', FORWARD_PORT)


class Mptcp(Variant):
    """Client and server speak MPTCP themselves; eight subflows from as many client addresses."""

    package = 'mptcpize'
    wrap = 'mptcpize', 'run'
    has_daemons = False
    SUBFLOWS = 8

    def set_up(self, setting):
        setting.congestion(self.congestion, 'client', 'server')
        for host in ('client', 'server'):
            setting.lab.run(host, ['ip', 'mptcp', 'limits', 'set', 'subflow', '8',
                                   'add_addr_accepted', '8'])
        for i in range(1, self.SUBFLOWS):
            setting.lab.run('client', ['ip', 'addr', 'add', f'10.77.1.{10 + i}/24', 'dev', 'eth0'])
            setting.lab.run('client', ['ip', 'mptcp', 'endpoint', 'add', f'10.77.1.{10 + i}',
                                       'dev', 'eth0', 'subflow'])

    def check(self, setting, flows):
        names, values = (line.split() for line in setting.read('client', 'netstat').splitlines()
                         if line.startswith('MPTcpExt:'))
        counters = dict(zip(names[1:], map(int, values[1:])))
        told = {'fallbacks': counters.get('MPCapableFallbackSYNACK', 0),
                'joins': counters.get('MPJoinSynAckRx', 0)}
        if told['fallbacks']:
            raise MeasureError(f'MPTCP fell back to TCP: {told}')
        return told


class Iperf3(Variant):
    """Not a gateway: so many connections of one program, as what striping could give."""

    group = 'bound'
    package = 'iperf3'
    has_daemons = False
    FLOWS = 16

    def set_up(self, setting):
        setting.congestion(self.congestion, 'client', 'server')


def all_variants():
    """In the order in which they are measured and shown."""
    return [
        Direct('direct-cubic', 'cubic'),
        Direct('direct-bbr', 'bbr'),
        Ours('roro'),
        Ours('roro-cubic', 'cubic'),
        Ours('roro-8-bbr', 'bbr', ['--stripes', '8:8']),
        Ours('roro-16-bbr', 'bbr', ['--stripes', '16:16']),
        Ours('roro-64-bbr', 'bbr', ['--stripes', '64:64']),
        Ours('roro-64-cubic', 'cubic', ['--stripes', '64:64']),
        Ours('roro-nosplice', None, ['--no-splice'], ['--no-splice']),
        Haproxy('haproxy-cubic', 'cubic'),
        Haproxy('haproxy-bbr', 'bbr'),
        Shadowsocks('ss-cubic', 'cubic'),
        Shadowsocks('ss-bbr', 'bbr'),
        Kcptun('kcptun', 'fast', tuned=False),
        Kcptun('kcptun-tuned', 'fast2', tuned=True),
        Mptcp('mptcp-cubic', 'cubic'),
        Mptcp('mptcp-bbr', 'bbr'),
        Iperf3('iperf3-16-cubic', 'cubic'),
        Iperf3('iperf3-16-bbr', 'bbr'),
    ]
