# SPDX-License-Identifier: ISC
"""One measurement: a lab for it alone, a variant in it, figures out of it."""

import json
import os
import pathlib
import statistics
import time
from subprocess import DEVNULL, PIPE, TimeoutExpired

from labnet import LabError
from peers import Iperf3
from setting import DIRECT, PORT, MeasureError, Setting, cpu_seconds, equip, make_lab

BUCKET = 0.1       # seconds, of the transfer program
STEADY_FROM = 5.0  # seconds after the start, at most half of the time


def _arguments(setting, variant, **options):
    argv = [*variant.wrap, setting.xfer, '--server-netns',
            f'/run/netns/{setting.lab.namespace("server")}', '--port', str(PORT),
            '--to', '{}:{}'.format(*variant.target)]
    for name, value in options.items():
        if value is True:
            argv.append(f'--{name}')
        elif value is not False:
            argv += [f'--{name}', str(value)]
    return argv


def _xfer(setting, variant, mode, patience, **options):
    """Runs the transfer program to its end; returns what it says."""
    argv = [*_arguments(setting, variant, **options), mode]
    output = json.loads(setting.lab.run('client', argv, timeout=patience).stdout)
    if output['corrupt']:
        raise MeasureError(f'{output["corrupt"]} pieces arrived with other content than was sent')
    return output


def _mbit(buckets):
    return sum(buckets) * 8 / 1e6 / (len(buckets) * BUCKET) if buckets else 0.0


def _steady(buckets, seconds):
    return _mbit(buckets[int(min(STEADY_FROM, seconds / 2) / BUCKET):])


def _series(buckets, step=5):
    """Mbit/s in steps of half a second, for plotting."""
    return [round(_mbit(buckets[i:i + step]), 2) for i in range(0, len(buckets), step)]


def _goodput(output, seconds):
    buckets = output['main']
    failed = [flow['error'] for flow in output['flows'] if flow['error']]
    if failed:
        raise MeasureError(f'{len(failed)} of {len(output["flows"])} flows failed: {failed[0]}')
    return {'steady': _steady(buckets, seconds), 'first2s': _mbit(buckets[:int(2 / BUCKET)]),
            'total': _mbit(buckets)}


def bulk(setting, variant, up, seconds, flows):
    if isinstance(variant, Iperf3):
        return _iperf3(setting, variant, up, seconds)
    output = _xfer(setting, variant, 'bulk', seconds + 30, up=up, seconds=seconds, flows=flows)
    return _goodput(output, seconds), {'series': _series(output['main'])}, flows


def _iperf3(setting, variant, up, seconds):
    """By iperf3's own clock, which starts when its connections stand."""
    server = setting.lab.popen('server', ['iperf3', '-s', '-1', '-p', str(PORT)],
                               stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    setting.daemons['server'] = server
    setting.wait_listening('server', PORT)
    del setting.daemons['server']
    argv = ['iperf3', '-J', '-c', variant.target[0], '-p', str(PORT), '-P', str(variant.FLOWS),
            '-t', str(int(seconds)), '-i', '1']
    argv += ['--get-server-output'] if up else ['-R']
    output = json.loads(setting.lab.run('client', argv, timeout=seconds + 60).stdout)
    if up:
        output = output['server_output_json']
    rates = [interval['sum']['bits_per_second'] / 1e6 for interval in output['intervals']
             if interval['sum']['seconds'] > 0.5]
    steady = rates[int(min(STEADY_FROM, seconds / 2)):]
    return ({'steady': statistics.mean(steady), 'first2s': statistics.mean(rates[:2]),
             'total': statistics.mean(rates)},
            {'series': [round(rate, 2) for rate in rates for _ in range(2)]}, variant.FLOWS)


def interactive(setting, variant, seconds, flows):
    output = _xfer(setting, variant, 'bulk', seconds + 30, seconds=seconds, flows=flows, ping=50)
    after = min(STEADY_FROM, seconds / 2) * 1e6
    times = sorted(rtt / 1000 for at, rtt in output['pings'] if at >= after)
    if output['ping_failed'] or len(times) < 5:
        raise MeasureError(f'the interactive flow had {len(times)} answers'
                           + (' and then failed' if output['ping_failed'] else ''))
    metrics = {'rtt': statistics.median(times), 'rtt95': times[int(len(times) * 0.95)]}
    if flows:
        metrics['steady'] = _goodput(output, seconds)['steady']
    return metrics, {'answers': len(times)}, flows + 1


def fairness(setting, variant, seconds):
    output = _xfer(setting, variant, 'bulk', seconds + 30, seconds=seconds,
                   rival=f'{DIRECT}:{PORT + 1}')
    if output['rival_failed']:
        raise MeasureError('the competing flow failed')
    rival = _steady(output['rival'], seconds)
    mine = _goodput(output, seconds)['steady']
    return ({'rival': rival, 'steady': mine, 'share': 100 * rival / (rival + mine)},
            {'series': _series(output['main']), 'rival': _series(output['rival'])}, 1)


def objects(setting, variant, size, flows, up, rounds, limit, silent=0):
    output = _xfer(setting, variant, 'objects', rounds * (limit + 1) + 30, size=size, flows=flows,
                   up=up, rounds=rounds, seconds=limit, pause=200, silent=silent)
    if output['silent'] < silent:
        raise MeasureError(f'of {silent} silent flows {output["silent"]} stand')
    # One that isn't done in time counts as one that took just that long: shown as a lower bound.
    times = [[flow['done'] / 1e6 if flow['done'] else limit for flow in of_round]
             for of_round in output['rounds']]
    every = [flow for of_round in output['rounds'] for flow in of_round]
    errors = {flow['error'] for flow in every if flow['error']}
    late = sum(flow['done'] is None for flow in every)
    warm = times[1:] or times
    return ({'time': statistics.median(time for of_round in warm for time in of_round),
             'slowest': statistics.median(max(of_round) for of_round in warm),
             'cold': statistics.median(times[0]), 'failed': late},
            {'limit': limit, 'unfinished': late, 'errors': sorted(errors)}, flows * rounds)


def first_byte(setting, variant, rounds):
    output = _xfer(setting, variant, 'objects', rounds * 11 + 30, size=1, rounds=rounds, seconds=10,
                   pause=1000)
    flows = [flows_of_round[0] for flows_of_round in output['rounds']]
    if not all(flow['first'] for flow in flows):
        raise MeasureError('no first byte within 10 s')
    times = [flow['first'] / 1000 for flow in flows]
    asked = [(flow['first'] - flow['asked']) / 1000 for flow in flows]
    return ({'cold': times[0], 'warm': statistics.median(times[1:]),
             'warm_asked': statistics.median(asked[1:])}, {'first': times}, rounds)


def cpu(setting, variant, flows, up, seconds):
    before, busy = setting.cpu(), _machine_times()['busy']
    output = _xfer(setting, variant, 'bulk', seconds + 30, up=up, seconds=seconds, flows=flows)
    after, busy = setting.cpu(), _machine_times()['busy'] - busy
    metrics = _goodput(output, seconds)
    gigabytes = sum(output['main']) / 1e9
    for host in after:
        metrics[f'cpu_{host}'] = (after[host] - before[host]) / gigabytes
    metrics['cpu'] = metrics['cpu_gw'] + metrics['cpu_relay']
    metrics['machine'] = busy / gigabytes
    return metrics, {'gigabytes': gigabytes}, flows


def rate(setting, variant, flows, seconds):
    before = setting.cpu()
    output = _xfer(setting, variant, 'rate', seconds + 30, seconds=seconds, flows=flows, size=1000)
    after = setting.cpu()
    used = sum(after.values()) - sum(before.values())
    if not output['finished'] or not used:
        raise MeasureError(f'no connection came to its end within {seconds} s')
    return ({'per_s': output['finished'] / seconds, 'per_cpu': output['finished'] / used,
             'failed': output['failed']},
            {'cpu': {host: round(after[host] - before[host], 2) for host in after}},
            output['finished'])


def _per_flow(setting, before, descriptors, standing):
    after, files = setting.memory(), setting.descriptors()
    metrics = {host: (after[host] - before[host]) / 1024 / standing for host in after}
    metrics['descriptors'] = sum(files[host] - descriptors[host] for host in files) / standing
    metrics['standing'] = standing
    return metrics, {'before_kb': {host: size // 1024 for host, size in before.items()},
                     'after_kb': {host: size // 1024 for host, size in after.items()}}


def memory_idle(setting, variant, flows):
    """Ten flows stand already, so that what is there once and for all is there."""
    holder = setting.lab.popen('client', [*_arguments(setting, variant, flows=flows + 10), 'hold'],
                               stdin=PIPE, stdout=PIPE, text=True)

    def stand(goal):
        holder.stdin.write(f'{goal}\n')
        holder.stdin.flush()
        return json.loads(holder.stdout.readline() or '{"standing": 0}')['standing']

    first = stand(10)
    before, descriptors = setting.memory(), setting.descriptors()
    standing = stand(flows + 10) - first
    if standing <= 0:
        raise MeasureError(f'of {flows} flows none stands')
    setting.check_alive()
    metrics, detail = _per_flow(setting, before, descriptors, standing)
    holder.stdin.close()
    holder.wait(30)
    return metrics, detail, standing + first


def memory_active(setting, variant, flows, seconds):
    """The same while all of them download as fast as the link lets them."""
    _xfer(setting, variant, 'bulk', 60, seconds=1, flows=10)
    before, descriptors = setting.memory(), setting.descriptors()
    argv = [*_arguments(setting, variant, flows=flows, seconds=seconds), 'bulk']
    mover = setting.lab.popen('client', argv, stdout=PIPE, text=True)
    time.sleep(seconds * 0.8)  # the moment that is measured
    setting.check_alive()
    metrics, detail = _per_flow(setting, before, descriptors, flows)
    output = json.loads(mover.communicate(timeout=60)[0])
    moving = sum(flow['bytes'] > 0 and not flow['error'] for flow in output['flows'])
    if moving < flows:
        detail['note'] = f'only {moving} of {flows} flows had got anything'
    metrics['standing'] = moving
    return metrics, detail, flows + 10


KINDS = {function.__name__: function for function in
         (bulk, interactive, fairness, objects, first_byte, cpu, rate, memory_idle, memory_active)}


def _machine_times():
    line = pathlib.Path('/proc/stat').read_text().partition('\n')[0]
    fields = [int(word) / os.sysconf('SC_CLK_TCK') for word in line.split()[1:9]]
    idle, steal = fields[3] + fields[4], fields[7]
    return {'busy': sum(fields) - idle - steal, 'idle': idle, 'steal': steal}


# Cores that the hypervisor, and other programs, may take before a measurement is disturbed.
STOLEN_MAX, OTHERS_MAX = 0.1, 0.3


def is_disturbed(record):
    """Whether something else took the processor meanwhile; the result has no say in it."""
    machine = record.get('machine', {})
    return (machine.get('stolen_cores', 0) > STOLEN_MAX or
            machine.get('others_cores', 0) > OTHERS_MAX)


class Watch:
    """How busy the machine was meanwhile, and with what besides us."""

    def __init__(self, setting):
        self.setting = setting
        self.began = time.monotonic()
        self.times = _machine_times()
        self.own = self._own()

    def _own(self):
        """Processor time of this program, of those it has reaped, and of those that run."""
        running = sum(cpu_seconds(process.pid) for process in self.setting.lab._children
                      if process.poll() is None)
        return running + sum(os.times()[:4])

    def result(self):
        """Shares of one core; and what is wrong with the measurement, if anything."""
        seconds = max(time.monotonic() - self.began, 0.01)
        now = _machine_times()
        change = {name: (now[name] - self.times[name]) / seconds for name in now}
        stats = self.setting.lab.stats()
        packets = sum(way.get('packets', 0) for way in stats.values())
        late = sum(way.get('late', 0) for way in stats.values())
        others = max(0.0, change['busy'] - (self._own() - self.own) / seconds)
        told = {'load_average': os.getloadavg()[0], 'idle_cores': round(change['idle'], 2),
                'stolen_cores': round(change['steal'], 2), 'others_cores': round(others, 2),
                'packets': packets, 'late': late}
        doubts = []
        if packets and late / packets > 0.01:
            doubts.append(f'{100 * late / packets:.1f} % of the packets late')
        if others > OTHERS_MAX:
            doubts.append(f'others used {others:.1f} cores')
        if change['steal'] > STOLEN_MAX:
            doubts.append(f'{change["steal"]:.1f} cores stolen')
        if packets and change['idle'] < 0.1:
            doubts.append('no processor time left')
        return told, doubts


def measure(scenario, variant, program, xfer, buffers=None):
    """Returns a record with metrics and more, or with 'error'."""
    began = time.monotonic()
    record = {'congestion': variant.congestion}
    name = f'bench{os.getpid()}'
    try:
        with Setting(make_lab(scenario.link, name), scenario.link, program) as setting:
            setting.xfer = xfer
            equip(setting.lab, buffers)
            variant.set_up(setting)
            watch = Watch(setting)
            metrics, detail, flows = KINDS[scenario.kind](setting, variant, **scenario.options)
            record['machine'], record['doubts'] = watch.result()
            record['evidence'] = variant.check(setting, flows)
            record['congestion'] = record['evidence'].get('congestion', variant.congestion)
            record['metrics'] = {key: round(value, 4) for key, value in metrics.items()}
            record['detail'] = detail
    except (LabError, MeasureError, OSError, ValueError, KeyError, TimeoutError) as error:
        record['error'] = f'{error}'.splitlines()[0][:300] or type(error).__name__
    except TimeoutExpired as error:
        record['error'] = f'no end after {error.timeout:.0f} s'
    record['took'] = round(time.monotonic() - began, 2)
    return record
