# SPDX-License-Identifier: ISC
"""The scenarios: which link, what goes over it, and which figures come out."""

import dataclasses

# TCP payload in a full packet (MTU 1500, IPv4, time stamps), and what that takes on the link.
PAYLOAD, PACKET = 1448, 1514


@dataclasses.dataclass(frozen=True)
class Link:
    rate: float = 100   # Mbit/s
    rtt: float = 100    # ms
    loss: float = 0     # %, in each direction
    burst: float = 1    # losses in a row, on average
    bare: bool = False  # a veth pair instead

    @property
    def bdp(self):
        """Bytes that fill the link for one round trip."""
        return int(self.rate * 1e6 / 8 * self.rtt / 1000)

    @property
    def queue(self):
        """One BDP, but never less than the link sends in 50 ms."""
        return max(self.bdp, int(self.rate * 1e6 / 8 * 0.05))

    @property
    def limit(self):
        """Mbit/s of TCP payload. Losses are before the bottleneck, so they don't take from it."""
        return self.rate * PAYLOAD / PACKET

    def __str__(self):
        if self.bare:
            return 'veth'
        burst = f'burst{self.burst:g}' if self.burst > 1 else ''
        return f'{self.rate:g}M-{self.rtt:g}ms-loss{self.loss:g}{burst}'


@dataclasses.dataclass(frozen=True)
class Metric:
    key: str
    label: str
    unit: str
    higher: bool = True  # is better
    digits: int = 1


BULK = (Metric('steady', 'steady', 'Mbit/s'), Metric('first2s', 'first 2 s', 'Mbit/s'),
        Metric('total', 'in all', 'Mbit/s'))
INTERACTIVE = (Metric('rtt', 'median RTT', 'ms', False), Metric('rtt95', '95 %', 'ms', False),
               Metric('steady', 'bulk beside it', 'Mbit/s'))
FAIRNESS = (Metric('rival', 'direct CUBIC keeps', 'Mbit/s'), Metric('share', 'its share', '%'),
            Metric('steady', 'the variant has', 'Mbit/s'))
OBJECTS = (Metric('time', 'median time', 's', False, 3),
           Metric('slowest', 'slowest', 's', False, 3),
           Metric('cold', 'the first', 's', False, 3), Metric('failed', 'failed', '', False, 0))
FIRST_BYTE = (Metric('warm', 'warm, from SYN', 'ms', False),
              Metric('cold', 'cold, from SYN', 'ms', False),
              Metric('warm_asked', 'warm, from request', 'ms', False))
CPU = (Metric('cpu', 'both', 's/GB', False, 3), Metric('cpu_gw', 'gateway', 's/GB', False, 3),
       Metric('cpu_relay', 'relay', 's/GB', False, 3),
       Metric('machine', 'whole machine', 's/GB', False, 3),
       Metric('steady', 'goodput', 'Mbit/s', True, 0))
RATE = (Metric('per_cpu', 'per s of CPU', 'connections', True, 0),
        Metric('per_s', 'per second', 'connections', True, 0),
        Metric('failed', 'failed', '', False, 0))
MEMORY = (Metric('gw', 'gateway', 'KB/flow', False, 2),
          Metric('relay', 'relay', 'KB/flow', False, 2),
          Metric('standing', 'flows', '', True, 0),
          Metric('descriptors', 'descriptors', '/flow', False))
# What only daemons have.
OF_DAEMONS = ('cpu', 'rate', 'memory_idle', 'memory_active')


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`kind` names the function of measure.py, `options` are for it."""
    name: str
    kind: str
    link: Link
    metrics: tuple
    options: dict
    seconds: float             # that it takes on the link, for one variant
    variants: tuple = ()       # without --variant; () is all that can do it

    def can(self, variant):
        """Whether the variant has what this measures."""
        if variant.group == 'bound':  # it only does this, and has its own number of connections
            return self.kind == 'bulk' and self.options['flows'] == 1
        return variant.has_daemons or self.kind not in OF_DAEMONS

    def model(self):
        """What the link itself allows, by metric; {} where that means nothing."""
        if self.link.bare:
            return {}
        if self.kind == 'bulk':
            first = max(0, self.link.limit * (2 - self.link.rtt / 1000) / 2)
            return {'steady': self.link.limit, 'first2s': first}
        if self.kind == 'objects':
            bits = self.options['size'] * 8 * self.options['flows']
            slowest = self.link.rtt / 1000 + bits / self.link.limit / 1e6
            return {'slowest': slowest, **({'time': slowest} if self.options['flows'] == 1 else {})}
        if self.kind == 'first_byte':
            return {'warm': self.link.rtt, 'cold': self.link.rtt, 'warm_asked': self.link.rtt}
        if self.kind == 'interactive':
            return {'rtt': self.link.rtt}
        return {}


def _size(number):
    """1000000 is 1MB."""
    for unit, name in ((1000000, 'MB'), (1000, 'KB')):
        if number >= unit:
            return f'{number // unit}{name}'
    return f'{number}B'


def bulk(link, up=False, seconds=None, flows=1, **more):
    seconds = seconds or (15 if link.rtt <= 100 else 25)
    name = f'bulk-{link}-{"up" if up else "down"}' + (f'-{flows}flows' if flows > 1 else '')
    options = {'up': up, 'seconds': seconds, 'flows': flows}
    return Scenario(name, 'bulk', link, BULK, options, seconds, **more)


def interactive(link, seconds=15, flows=1, **more):
    name = f'interactive-{link}' + ('' if flows else '-idle')
    return Scenario(name, 'interactive', link, INTERACTIVE, {'seconds': seconds, 'flows': flows},
                    seconds, **more)


def fairness(link, seconds=20, **more):
    return Scenario(f'fairness-{link}', 'fairness', link, FAIRNESS, {'seconds': seconds}, seconds,
                    **more)


def objects(link, size, flows=1, up=False, rounds=None, limit=60, often=False, silent=0, **more):
    """Rounds one after the other; in each, `flows` clients get an object at the same time.

    Beside them stand `silent` flows that say nothing, as a LAN always has some.
    """
    rounds = 60 if often else rounds
    rounds = rounds or (6 if size * flows <= 1000000 else 2 if size * flows <= 10000000 else 1)
    options = {'size': size, 'flows': flows, 'up': up, 'rounds': rounds, 'limit': limit}
    ideal = link.rtt / 200 + size * flows * 8 / link.limit / 1e6
    name = f'object-{_size(size)}-x{flows}-{link}-{"up" if up else "down"}' + '-often' * often
    if silent:
        options['silent'] = silent
        name += f'-beside{silent}'
    return Scenario(name, 'objects', link, OBJECTS, options, rounds * min(limit, 2 * ideal + 0.5),
                    **more)


def first_byte(link, rounds=6, **more):
    return Scenario(f'first-byte-{link}', 'first_byte', link, FIRST_BYTE, {'rounds': rounds},
                    rounds * (1 + link.rtt / 500), **more)


def cpu(flows=1, up=False, seconds=8, **more):
    return Scenario(f'cpu-x{flows}-{"up" if up else "down"}', 'cpu', Link(bare=True), CPU,
                    {'flows': flows, 'up': up, 'seconds': seconds}, seconds, **more)


def rate(seconds=5, **more):
    return Scenario('connections', 'rate', Link(bare=True), RATE, {'flows': 32, 'seconds': seconds},
                    seconds, **more)


def memory_idle(flows, **more):
    return Scenario(f'memory-idle-{flows}', 'memory_idle', Link(bare=True), MEMORY,
                    {'flows': flows}, 3 + flows / 500, **more)


def memory_active(flows, **more):
    """On a bare link, since of so many flows an emulated one would let some get nothing at all."""
    return Scenario(f'memory-active-{flows}', 'memory_active', Link(bare=True), MEMORY,
                    {'flows': flows, 'seconds': 12}, 14, **more)


# Not every variant has something of its own to tell everywhere.
FEW = ('direct-cubic', 'direct-bbr', 'roro', 'roro-16-bbr', 'roro-64-cubic', 'haproxy-bbr',
       'ss-bbr', 'kcptun-tuned', 'mptcp-bbr')
NEAR = ('direct-bbr', 'roro', 'haproxy-bbr', 'kcptun-tuned')
MAIN = FEW + ('roro-64-bbr', 'haproxy-cubic', 'kcptun', 'iperf3-16-bbr')
ALL = MAIN + ('roro-cubic', 'roro-8-bbr', 'ss-cubic', 'mptcp-cubic', 'iperf3-16-cubic')


def full():
    """Around 100 Mbit/s and 100 ms each property is varied by itself; and a few corners."""
    result = [bulk(Link(loss=loss), seconds=60 if loss in (1, 3) else 15, variants=ALL)
              for loss in (0, 0.1, 1, 3)]
    others = [Link(loss=loss, burst=4) for loss in (0.1, 1, 3)]
    others += [Link(rtt=rtt, loss=loss) for rtt in (1, 30, 300, 600) for loss in (0, 1)]
    others += [Link(rate=rate, loss=loss) for rate in (10, 500) for loss in (0, 1)]
    others += [Link(10, 600, 3), Link(500, 30, 0.1), Link(500, 300, 1)]
    result += [bulk(link, variants=MAIN) for link in others]
    result += [bulk(Link(loss=loss), up=True, variants=MAIN) for loss in (0, 1, 3)]
    result += [bulk(Link(loss=loss), flows=flows, variants=FEW)
               for loss in (0, 1) for flows in (10, 100)]
    result += _objects(Link(loss=0)) + _objects(Link(loss=1))
    result += [objects(Link(rtt=200, loss=loss), 1000000, rounds=12, variants=FEW)
               for loss in (0, 1)]
    result += [objects(Link(loss=1), size, up=up, often=True, variants=NEAR)
               for size in (10000, 100000) for up in (False, True)]
    result += [objects(Link(loss=1), 100000, often=True, silent=40, variants=NEAR)]
    result += [first_byte(Link(rtt=rtt), variants=FEW) for rtt in (30, 100, 300, 600)]
    result += [first_byte(Link(loss=1), variants=FEW), interactive(Link(), flows=0, variants=FEW)]
    result += [interactive(link, variants=FEW) for link in (Link(), Link(loss=1), Link(10, 30))]
    result += [fairness(link, variants=FEW) for link in (Link(), Link(rtt=30), Link(10, 30))]
    return result + _machine()


def _objects(link):
    result = [objects(link, size, flows, variants=FEW)
              for size in (10000, 100000, 1000000) for flows in (1, 10, 100)]
    result += [objects(link, 10000000, flows, variants=FEW) for flows in (1, 10)]
    result += [objects(link, 100000000, variants=FEW)]
    return result + [objects(link, size, up=True, variants=FEW)
                     for size in (10000, 100000, 1000000, 10000000, 100000000)]


def _machine():
    """Splicing or not is a question of processor time, so both are in here."""
    return [cpu(), cpu(up=True), cpu(flows=10), rate(), memory_idle(1000), memory_idle(5000),
            memory_active(100), memory_active(1000), memory_active(5000)]


def exhaustive():
    """The full run, and every combination of rate, round-trip time and loss, both ways."""
    losses = [(0, 1)] + [(loss, burst) for burst in (1, 4) for loss in (0.1, 1, 3)]
    every = [bulk(Link(rate, rtt, loss, burst), up)
             for rate in (10, 100, 500) for rtt in (1, 30, 100, 300, 600) for loss, burst in losses
             for up in (False, True)]
    scenarios = {scenario.name: scenario for scenario in full()}
    for scenario in every:
        scenarios.setdefault(scenario.name, scenario)
    return list(scenarios.values())


def quick():
    """Something of everything in less than five minutes."""
    few = ('direct-cubic', 'direct-bbr', 'roro', 'haproxy-bbr')
    daemons = ('roro', 'roro-nosplice', 'haproxy-cubic')
    return [
        bulk(Link(loss=1), seconds=6, variants=(
            'direct-cubic', 'direct-bbr', 'roro', 'roro-16-bbr', 'roro-64-cubic', 'haproxy-bbr',
            'ss-bbr', 'kcptun', 'kcptun-tuned', 'mptcp-bbr', 'iperf3-16-bbr')),
        bulk(Link(rtt=30), seconds=4, variants=few),
        bulk(Link(loss=1), up=True, seconds=6, variants=('direct-bbr', 'roro')),
        objects(Link(rtt=200, loss=1), 1000000, rounds=3, limit=10, variants=few),
        first_byte(Link(), rounds=3, variants=few),
        interactive(Link(), seconds=5, variants=('direct-bbr', 'roro', 'haproxy-bbr')),
        fairness(Link(rtt=30), seconds=6, variants=('direct-cubic', 'roro')),
        cpu(seconds=3, variants=daemons),
        rate(seconds=3, variants=daemons),
        memory_idle(1000, variants=daemons),
    ]


SETS = {'quick': quick, 'full': full, 'exhaustive': exhaustive}
