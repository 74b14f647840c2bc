# SPDX-License-Identifier: ISC
"""Fixtures: the lab (one for all tests of a run), and daemons in it (new for each test)."""

import pathlib
import shutil
import signal
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / 'lab')]

import harness  # noqa: E402
import labnet  # noqa: E402

CLEAN = {'rate': 0, 'delay': '0ms', 'queue': 8_000_000, 'loss': 0, 'burst': 1, 'reorder': 0,
         'reorder_delay': '5ms'}
STARTED = pytest.StashKey[list]()


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes more than about five seconds')
    # As Ctrl-C: ends the run and tears everything down. By default it ends Python on the spot.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the logs of its daemons."""
    report = (yield).get_result()
    if report.failed:
        for program in item.stash.get(STARTED, []):
            log = program.log()
            dropped = [f'... {len(log) - 60} lines ...'] if len(log) > 60 else []
            report.sections.append((f'log of {program.name}', '\n'.join(dropped + log[-60:])))


@pytest.fixture(scope='session')
def program():
    return harness.find_program()


@pytest.fixture(scope='session')
def standing_lab():
    with labnet.Lab(**CLEAN) as lab:
        harness.prepare_hosts(lab)
        yield lab


@pytest.fixture(scope='session')
def standing_firewall(standing_lab):
    return harness.Firewall(standing_lab)


def reset_link(lab):
    lab.blackhole(False)
    lab.set(**CLEAN)


@pytest.fixture
def lab(standing_lab):
    """The lab with a clean and fast WAN, whatever the test does to it."""
    yield standing_lab
    reset_link(standing_lab)


@pytest.fixture
def firewall(standing_firewall):
    """The firewall as usual: the tests that change it find it so, and leave it so to others."""
    standing_firewall.usual()
    return standing_firewall


@pytest.fixture
def folder():
    """A short path that unprivileged daemons can reach."""
    path = tempfile.mkdtemp(prefix='roro-')
    pathlib.Path(path).chmod(0o755)
    yield pathlib.Path(path)
    shutil.rmtree(path)


class Starter:
    """Starts daemons and other programs for a test or a module; end() stops all of them."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.folder = folder
        self.programs = []

    def __call__(self, host, role, *options, **kw):
        return harness.Daemon(self.lab, host, role, *options, folder=self.folder,
                              register=self.programs, **kw)

    def program(self, host, argv, **kw):
        return harness.Program(self.lab, host, argv, register=self.programs, **kw)

    def end(self):
        """Daemons that still run must end cleanly; all others are killed."""
        failures = []
        for program in reversed(self.programs):
            try:
                if isinstance(program, harness.Daemon) and program.running():
                    program.stop()
            except harness.Failure as failure:
                failures.append(str(failure))
            finally:
                program.kill()
        assert not failures, '; '.join(failures)


@pytest.fixture
def start(request, lab, folder):
    """start(host, role, option, ...) starts a daemon; it must end cleanly after the test."""
    starter = Starter(lab, folder)
    request.node.stash[STARTED] = starter.programs
    yield starter
    starter.end()


@pytest.fixture(params=['splice', 'copy'])
def mode(request):
    return request.param


@pytest.fixture
def make_gateway(start, lab, firewall):
    """make_gateway(mode=..., stripes=...): see harness.Gateway. At the end nothing may be left."""
    made = []

    def make(**how):
        made.append(harness.Gateway(start, lab, **how))
        return made[-1]

    yield make
    for gateway in made:
        for daemon in gateway.daemons():
            if daemon.running():
                daemon.wait_idle()


@pytest.fixture
def gateway(make_gateway, mode):
    return make_gateway(mode=mode)


@pytest.fixture
def listener(lab):
    """A listener on the server, IPv4, on a free port."""
    with lab.listen('server') as sock:
        yield sock


class Sockets:
    """Keeps sockets, to close them."""

    def __init__(self):
        self.kept = []

    def __call__(self, *those):
        self.kept.extend(those)
        return those if len(those) != 1 else those[0]

    def close(self, keep=()):
        for sock in self.kept:
            if sock not in keep:
                sock.close()
        self.kept = list(keep)


@pytest.fixture
def sockets():
    """sockets(a, b, ...) are closed after the test."""
    kept = Sockets()
    yield kept
    kept.close()
