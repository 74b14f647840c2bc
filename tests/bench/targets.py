# SPDX-License-Identifier: ISC
"""What must be true, held against what was measured: for the gateway as it comes, not tuned."""

OURS = 'roro'
CUBIC = 'roro-cubic'
FAR = ('bulk', 'objects', 'first_byte', 'interactive')


class Target:
    """`value` is None where nothing was measured; `met` likewise."""

    def __init__(self, text, value, bound, unit, at_least=True, remark=''):
        self.text, self.value, self.bound, self.unit, self.remark = text, value, bound, unit, remark
        self.at_least = at_least
        self.met = None if value is None else (value >= bound if at_least else value <= bound)


def _row(summary, scenario, variant):
    for entry in summary['scenarios']:
        if entry['name'] == scenario:
            for row in entry['variants']:
                if row['name'] == variant:
                    return row
    return None


def _median(summary, scenario, variant, key):
    row = _row(summary, scenario, variant)
    return row['median'].get(key) if row else None


def _ratio(summary, scenario, key, group):
    row = _row(summary, scenario, OURS)
    return row.get('ratio', {}).get(key, {}).get(group) if row else None


def _of_haproxy(summary, scenario, key, higher):
    """How many times better than the best HAProxy."""
    found = [_median(summary, scenario, name, key) for name in ('haproxy-cubic', 'haproxy-bbr')]
    found = [value for value in found if value is not None]
    ours = _median(summary, scenario, OURS, key)
    if not found or ours is None:
        return None
    return ours / max(found) if higher else min(found) / ours


def _worst(summary, group, chosen):
    """The smallest ratio over the chosen scenarios' main metric, and where that is."""
    found = []
    for entry in filter(chosen, summary['scenarios']):
        ratio = _ratio(summary, entry['name'], entry['metrics'][0]['key'], group)
        if ratio is not None:
            found.append((ratio, entry['name']))
    ratio, name = min(found, default=(None, ''))
    return ratio, f'worst: {name}' if name else ''


def _is_clean(entry):
    return entry['kind'] in ('bulk', 'objects') and not entry['link']['loss']


def _is_far(entry):
    link = entry['link']
    return entry['kind'] in FAR and not link['bare'] and (link['loss'] > 0 or link['rtt'] >= 100)


def targets(summary):
    middle, lossy = 'bulk-100M-100ms-loss1-down', 'bulk-100M-100ms-loss3-down'
    result = [
        Target('download over 100 Mbit/s, 100 ms, 1 % loss, BBR',
               _median(summary, middle, OURS, 'total'), 93, 'Mbit/s'),
        Target('the same, CUBIC only', _median(summary, middle, CUBIC, 'total'), 85, 'Mbit/s'),
        Target('its first 2 s', _median(summary, middle, OURS, 'first2s'), 70, 'Mbit/s'),
        Target('download at 3 % loss, BBR', _median(summary, lossy, OURS, 'total'), 88, 'Mbit/s'),
    ]
    ratio, where = _worst(summary, 'direct', _is_clean)
    result += [
        Target('every clean scenario, against direct', ratio, 0.98, 'x', remark=where),
        Target('first byte of a warm flow, from the SYN, 100 ms',
               _median(summary, 'first-byte-100M-100ms-loss0', OURS, 'warm'), 110, 'ms', False),
    ]
    for loss in (0, 1):
        name = f'object-1MB-x1-100M-200ms-loss{loss}-down'
        result.append(Target(f'1 MB at 200 ms, {loss} % loss, against direct',
                             _ratio(summary, name, 'time', 'direct'), 2, 'x'))
    result += [
        Target('interactive flow beside a bulk flow, against direct',
               _ratio(summary, 'interactive-100M-100ms-loss0', 'rtt', 'direct'), 1, 'x'),
        Target('CPU per GB, against two HAProxy',
               _of_haproxy(summary, 'cpu-x1-down', 'cpu', False), 1, 'x'),
        Target('connections per s of CPU, against two HAProxy',
               _of_haproxy(summary, 'connections', 'per_cpu', True), 1, 'x'),
    ]
    for host in ('gw', 'relay'):
        for flows in (1000, 5000):
            result.append(Target(f'idle flow of {flows}, {host}',
                                 _median(summary, f'memory-idle-{flows}', OURS, host), 2, 'KB',
                                 False))
    ratio, where = _worst(summary, 'peer', _is_far)
    result.append(Target('loss or 100 ms and more, against the best peer', ratio, 1, 'x',
                         remark=where))
    return result
