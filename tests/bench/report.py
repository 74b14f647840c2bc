# SPDX-License-Identifier: ISC
"""Tables for the terminal and in Markdown, and what goes into which plot."""

import json

import plots
from targets import targets


def _number(value, digits):
    return '-' if value is None else f'{value:.{digits}f}'


def _cell(row, metric):
    value = row['median'].get(metric['key'])
    bound = '>= ' if row['at_least'] and metric['key'] in ('time', 'slowest', 'cold') else ''
    return (bound if value is not None else '') + _number(value, metric['digits'])


def _range(row, key):
    values = row['values'].get(key, [])
    return f'{min(values):g}..{max(values):g}' if len(values) > 1 else ''


def _headings(scenario):
    first = scenario['metrics'][0]
    figures = [f'{m["label"]} {m["unit"]}'.strip() for m in scenario['metrics']]
    return (['variant', 'congestion', *figures]
            + [f'range of {first["label"]}', 'x direct', 'x best peer', 'remarks'])


def _remarks(row, repeats):
    words = [f'failed: {error}' for error in row['errors']] + row['notes']
    if row['doubtful']:
        words.append(f'doubtful {row["doubtful"]}/{repeats}: {", ".join(row["doubts"])}')
    return '; '.join(words)


def _row(scenario, row):
    first = scenario['metrics'][0]['key']
    ratio = row.get('ratio', {}).get(first, {})
    repeats = len(row['values'].get(first, []))
    return ([row['name'], row['congestion'] or '-'] + [_cell(row, m) for m in scenario['metrics']]
            + [_range(row, first), _number(ratio.get('direct'), 2), _number(ratio.get('peer'), 2),
               _remarks(row, repeats)])


def _model_row(scenario):
    model = scenario['model']
    return (['the link itself', '-']
            + [_number(model.get(m['key']), m['digits']) for m in scenario['metrics']] + [''] * 4)


def _lines(scenario):
    lines = [_row(scenario, row) for row in scenario['variants']]
    return lines + [_model_row(scenario)] if scenario['model'] else lines


def _aligned(headings, lines):
    """For the terminal: the last column is left as it is."""
    lines = [headings, *lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings) - 1)]
    return '\n'.join('  '.join([line[0].ljust(widths[0]), line[1].ljust(widths[1])]
                               + [text.rjust(width) for text, width in zip(line[2:-1], widths[2:])]
                               + [line[-1]]).rstrip() for line in lines)


def _markdown(headings, lines):
    rows = [headings, ['---'] * 2 + ['---:'] * (len(headings) - 3) + ['---'], *lines]
    return '\n'.join(f'| {" | ".join(text.replace("|", "/") for text in row)} |' for row in rows)


def _target_lines(summary):
    lines = []
    for target in targets(summary):
        sign = '>=' if target.at_least else '<='
        verdict = {None: 'not measured', True: 'met', False: 'MISSED'}[target.met]
        lines.append([target.text, verdict, _number(target.value, 2),
                      f'{sign} {target.bound:g} {target.unit}', target.remark])
    return ['what must be true', 'verdict', 'measured', 'wanted', 'remarks'], lines


def table(summary):
    """All tables for a terminal."""
    parts = [f'{s["name"]}\n{_aligned(_headings(s), _lines(s))}' for s in summary['scenarios']]
    parts += [f'not measured: {name}: {reason}' for name, reason in summary['unavailable'].items()]
    return '\n\n'.join([*parts, _aligned(*_target_lines(summary))])


def _doubts_and_gaps(summary):
    lines = [f'- **{name}** could not be measured: {why}'
             for name, why in summary['unavailable'].items()]
    if len(summary['programs']) > 1:
        lines.append(f'- The figures are of {len(summary["programs"])} builds of ro-ro-tcp.')
    return '\n'.join(lines)


def markdown(summary, images):
    machine = summary['machine']
    packages = ', '.join(f'{name} {version}' for name, version in machine['packages'].items()
                         if version)
    parts = ['# Results of the bench',
             f'Commit {machine["commit"]}, Linux {machine["kernel"]}, {machine["cores"]} cores '
             f'({machine["processor"]}); {packages}.',
             'Medians; ratios are of the first figure, above 1 is better. "x direct" is against '
             'the better direct connection, "x best peer" against the best of the peers (iperf3 '
             'is none).',
             _doubts_and_gaps(summary), '## Targets', _markdown(*_target_lines(summary))]
    for scenario in summary['scenarios']:
        parts += [f'## {scenario["name"]}', _markdown(_headings(scenario), _lines(scenario))]
        parts += [f'![{name}]({name})' for name in images.get(scenario['name'], [])]
    parts += [f'![{name}]({name})' for name in images.get(None, [])]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _median_series(runs):
    return [sorted(values)[len(values) // 2] for values in zip(*runs)]


def _scenario_plots(scenario):
    """Yields (name, SVG)."""
    metric = scenario['metrics'][0]
    rows = [(row['name'], row['group'], row['median'][metric['key']])
            for row in scenario['variants'] if metric['key'] in row['median']]
    direction = '' if metric['higher'] else ' (less is better)'
    unit = f'{metric["label"]}, {metric["unit"]}{direction}'
    if rows:
        yield (f'{scenario["name"]}.svg',
               plots.bars(scenario['name'], unit, rows, scenario['model'].get(metric['key'])))
    series = [(row['name'], row['group'], [(0.5 * i + 0.25, value) for i, value in
                                           enumerate(_median_series(row['series']))])
              for row in scenario['variants'] if row['series']]
    if series and scenario['kind'] == 'bulk':
        yield (f'{scenario["name"]}-time.svg',
               plots.lines(scenario['name'], 'seconds', 'Mbit/s', series, scenario['limit']))


def _sweep(summary, fixed, axis):
    """Downloads that differ in one property of the link: {variant: [(x, Mbit/s)]}."""
    found = {}
    for scenario in summary['scenarios']:
        link, options = scenario['link'], scenario['options']
        if scenario['kind'] != 'bulk' or options['up'] or options['flows'] != 1:
            continue
        if any(link[name] != value for name, value in fixed.items()):
            continue
        for row in scenario['variants']:
            if 'steady' in row['median']:
                points = found.setdefault((row['name'], row['group']), [])
                points.append((link[axis], row['median']['steady']))
    return [(*key, sorted(points)) for key, points in found.items() if len(points) > 1]


def _sweep_plots(summary):
    for axis, label, fixed in (
            ('loss', 'loss, %', {'rate': 100, 'rtt': 100, 'burst': 1}),
            ('rtt', 'round-trip time, ms', {'rate': 100, 'loss': 0}),
            ('rtt', 'round-trip time, ms', {'rate': 100, 'loss': 1, 'burst': 1}),
            ('rate', 'rate, Mbit/s', {'rtt': 100, 'loss': 0}),
            ('rate', 'rate, Mbit/s', {'rtt': 100, 'loss': 1, 'burst': 1})):
        series = _sweep(summary, fixed, axis)
        if series:
            where = ', '.join(f'{name} {value}' for name, value in fixed.items() if name != 'burst')
            suffix = '' if axis == 'loss' else f'-loss{fixed["loss"]}'
            yield (f'sweep-{axis}{suffix}.svg',
                   plots.lines(f'Steady download by {axis} ({where})', label, 'Mbit/s', series,
                               None))


def write(summary, folder):
    """Writes results.json, results.md, results.txt and the plots."""
    images = {None: []}
    for scenario in summary['scenarios']:
        for name, svg in _scenario_plots(scenario):
            (folder / name).write_text(svg)
            images.setdefault(scenario['name'], []).append(name)
    for name, svg in _sweep_plots(summary):
        (folder / name).write_text(svg)
        images[None].append(name)
    (folder / 'results.json').write_text(json.dumps(summary, indent=1) + '\n')
    (folder / 'results.md').write_text(markdown(summary, images))
    (folder / 'results.txt').write_text(table(summary) + '\n')
