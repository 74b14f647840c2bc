# SPDX-License-Identifier: ISC
"""What has been measured: kept line by line, so that a run can be resumed, and made sense of."""

import json
import os
import statistics

FILE = 'measurements.jsonl'


class Store:
    """The measurements in a folder. The last one of a scenario, variant and repeat counts."""

    def __init__(self, folder, fresh=False):
        self.folder = folder
        self.path = folder / FILE
        self.records = {}
        folder.mkdir(parents=True, exist_ok=True)
        if fresh and self.path.exists():
            self.path.replace(self.path.with_suffix('.jsonl.old'))
        if self.path.exists():
            self._load()

    def _load(self):
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # cut off when the run before was killed: it is measured again
            self.records[self._key(record)] = record

    @staticmethod
    def _key(record):
        return record['scenario'], record['variant'], record['repeat']

    def has(self, *key):
        """Whether it was measured. What failed is tried again by the next run."""
        return key in self.records and 'error' not in self.records[key]

    def add(self, record):
        self.records[self._key(record)] = record
        with open(self.path, 'a') as file:
            file.write(json.dumps(record) + '\n')
            file.flush()
            os.fsync(file.fileno())

    def of(self, scenario, variant):
        return [record for key, record in sorted(self.records.items())
                if key[:2] == (scenario, variant)]


def _median(values):
    return round(statistics.median(values), 4)


def _variant(variant, records):
    good = [record for record in records if 'metrics' in record]
    values = {}
    for record in good:
        for key, value in record['metrics'].items():
            values.setdefault(key, []).append(value)
    return {
        'name': variant.name, 'group': variant.group,
        'congestion': good[0]['congestion'] if good else variant.congestion,
        'values': values, 'median': {key: _median(value) for key, value in values.items()},
        'at_least': any(record['detail'].get('unfinished') for record in good),
        'doubts': sorted({doubt for record in good for doubt in record['doubts']}),
        'doubtful': sum(bool(record['doubts']) for record in good),
        'notes': sorted({record['detail']['note'] for record in good
                         if 'note' in record['detail']}),
        'errors': sorted({record['error'] for record in records if 'error' in record}),
        'series': [record['detail']['series'] for record in good if 'series' in record['detail']],
    }


def _ratio(metric, value, reference):
    """How many times better; above 1 is better whichever way the metric goes."""
    ours, theirs = (value, reference) if metric.higher else (reference, value)
    return round(ours / theirs, 3) if theirs else None


def _compare(metrics, rows):
    """Adds to each row its ratio to the best direct connection and to the best peer."""
    for metric in metrics:
        best = {}
        for row in rows:
            if metric.key in row['median'] and row['group'] in ('direct', 'peer'):
                pick = max if metric.higher else min
                value = row['median'][metric.key]
                best[row['group']] = pick(best.get(row['group'], value), value)
        for row in rows:
            if metric.key in row['median']:
                row.setdefault('ratio', {})[metric.key] = {
                    group: _ratio(metric, row['median'][metric.key], value)
                    for group, value in best.items()}


def summarize(scenarios, variants, store, unavailable, machine):
    """All that there is to report, as plain data."""
    summary = {'machine': machine, 'unavailable': unavailable, 'scenarios': []}
    for scenario in scenarios:
        rows = []
        for variant in variants:
            records = store.of(scenario.name, variant.name)
            if records:
                rows.append(_variant(variant, records))
        if not rows:
            continue
        _compare(scenario.metrics, rows)
        summary['scenarios'].append({
            'name': scenario.name, 'kind': scenario.kind, 'link': vars(scenario.link),
            'limit': scenario.link.limit, 'options': scenario.options, 'model': scenario.model(),
            'metrics': [vars(metric) for metric in scenario.metrics], 'variants': rows})
    summary['programs'] = sorted({record['program'] for record in store.records.values()
                                  if record.get('program')})
    return summary
