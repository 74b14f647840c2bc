# SPDX-License-Identifier: ISC
"""Runs the test suites of tests/run one after the other, and counts."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / 'tests' / 'lab'))
import labnet  # noqa: E402

LIMIT = 20 * 60  # seconds: a suite that takes longer hangs
GRACE = 60  # seconds that a suite may take to clean up when it is interrupted
CHECK_SUMMARY = re.compile(r'^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)$', re.M)


class Usage(Exception):
    """Says in one line what is wrong with the command line."""


class Count:
    """What became of tests."""

    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed = passed
        self.failed = failed
        self.skipped = skipped

    def __add__(self, other):
        return Count(self.passed + other.passed, self.failed + other.failed,
                     self.skipped + other.skipped)

    def __str__(self):
        skipped = f', {self.skipped} skipped' if self.skipped else ''
        return f'{self.passed} passed, {self.failed} failed{skipped}'


class Unit:
    """`make check`: programs of Check, which say how many tests they ran; others count as one."""

    def __init__(self, build):
        self.build = build
        self.summary = build / 'test-suite.log'

    def command(self, options):
        if options:
            raise Usage(f'unit takes no options: {options[0]}')
        for old in [self.summary, *self.build.glob('tests/**/*.trs')]:
            old.unlink(missing_ok=True)
        return ['make', '-s', '-C', str(self.build), f'-j{os.cpu_count()}', 'check', 'VERBOSE=1']

    def count(self, status):
        results = list(self.build.glob('tests/**/*.trs'))
        total = sum((self.count_program(result) for result in results), Count())
        announced = re.search(r'^# TOTAL: (\d+)', self.summary.read_text(), re.M)
        if int(announced[1]) != len(results):
            raise ValueError(f'{len(results)} of {announced[1]} programs have a result')
        if status != 0 and total.failed == 0:
            raise ValueError(f'make check ended with {status}')
        return total

    @staticmethod
    def count_program(result):
        verdict = re.search(r'^:test-result: (\w+)', result.read_text(), re.M)[1]
        if verdict == 'SKIP':
            return Count(skipped=1)
        log = result.with_suffix('.log').read_text(errors='replace')
        count = Count()
        for summary in CHECK_SUMMARY.findall(log):
            checks, failures, errors = map(int, summary)
            count += Count(checks - failures - errors, failures + errors)
        if verdict == 'PASS' and count.passed + count.failed == 0:
            return Count(passed=1)
        if verdict != 'PASS' and count.failed == 0:  # it crashed, or a sanitizer spoke at its end
            count += Count(failed=1)
        return count


class Pytest:
    """All test_*.py of a folder.

    With more than one worker whole files run at the same time, each worker with a lab of its own:
    for tests that wait more than they work. `-n 0` among the options runs them in one process
    again, e.g. to see what they print (`-s`).
    """

    def __init__(self, build, folder, workers=0):
        self.folder = folder
        self.workers = workers
        self.report = build / f'{folder.name}.xml'

    def command(self, options):
        self.report.unlink(missing_ok=True)
        return ['/usr/bin/python3', '-m', 'pytest', '-p', 'no:cacheprovider', '-ra',
                '--durations=5', f'--rootdir={TOP}', f'--junitxml={self.report}',
                *(['-n', str(self.workers), '--dist', 'loadfile'] if self.workers > 1 else []),
                str(self.folder), *options]

    def count(self, status):
        total = Count()
        for case in xml.etree.ElementTree.parse(self.report).iter('testcase'):
            if case.find('failure') is not None or case.find('error') is not None:
                total += Count(failed=1)
            elif case.find('skipped') is not None:
                total += Count(skipped=1)
            else:
                total += Count(passed=1)
        if status != 0 and total.failed == 0:
            raise ValueError(f'pytest ended with {status}')
        return total


def run(command):
    """Runs a suite's command to its end and returns its status. It is interrupted as we are."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        raise ValueError(f'it still ran after {LIMIT // 60} minutes') from None
    finally:
        end(process)


def end(process):
    """Lets an unfinished suite clean up, and makes sure that it ends."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)


def run_suite(name, suite, options):
    """Whatever goes wrong with the suite as a whole is one failed test."""
    print(f'== {name}', flush=True)
    command = suite.command(options)
    try:
        count = suite.count(run(command))
        if count.passed == 0 and count.failed == 0:
            raise ValueError('no test ran')
    except (ValueError, OSError, TypeError, xml.etree.ElementTree.ParseError) as error:
        print(f'{name}: {error}', flush=True)
        count = Count(failed=1)
    finally:
        labnet.sweep()
    return count


def choose(arguments):
    """Splits the command line into names of suites and options for pytest."""
    build = pathlib.Path(os.environ['RORO_BUILD']).resolve()
    suites = {'unit': Unit(build), 'lab': Pytest(build, TOP / 'tests' / 'lab'),
              'integration': Pytest(build, TOP / 'tests' / 'integration', min(os.cpu_count(), 4))}
    first = next((i for i, word in enumerate(arguments) if word.startswith('-')), len(arguments))
    names, options = arguments[:first], arguments[first:]
    for name in names:
        if name not in suites:
            raise Usage(f"there is no suite '{name}': say {', '.join(suites)}")
    if options and not names:
        raise Usage('name the suite that the options are for')
    return {name: suites[name] for name in names or suites}, options


def stop(number, _):
    raise KeyboardInterrupt(number)


def main(arguments):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    total, lines = Count(), []
    try:
        suites, options = choose(arguments)
        for name, suite in suites.items():
            began = time.monotonic()
            count = run_suite(name, suite, options)
            lines.append(f'   {name:12} {time.monotonic() - began:5.0f} s   {count}')
            print(f'{lines[-1]}\n', flush=True)
            total += count
    except KeyboardInterrupt as interrupt:
        print('run: interrupted; all is taken down', file=sys.stderr)
        return 128 + (interrupt.args or (signal.SIGINT,))[0]
    except Usage as usage:
        print(f'run: {usage}', file=sys.stderr)
        return 2
    print('\n'.join(lines))
    print(f'{total.passed} passed, {total.failed} failed', flush=True)
    return 1 if total.failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
