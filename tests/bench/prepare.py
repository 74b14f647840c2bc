# SPDX-License-Identifier: ISC
"""What has to be there before anything can be measured: packages, our own programs, the daemon."""

import hashlib
import os
import pathlib
import platform
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
BUILD = HERE / 'build'

# Debian package -> the programs of it that are used here.
PEERS = {
    'haproxy': ['haproxy'],
    'iperf3': ['iperf3'],
    'kcptun': ['kcptun-client', 'kcptun-server'],
    'mptcpize': ['mptcpize'],
    'shadowsocks-libev': ['ss-redir', 'ss-server'],
}


class PrepareError(Exception):
    """Says in one line what is missing and what helps."""


def _setup(script, *arguments):
    """Runs a line of shell with the functions of tests/setup."""
    return subprocess.run(['sh', '-c', f'top=$1; shift; . "$top/tests/setup"; {script}', 'bench',
                           str(TOP), *map(str, arguments)],
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _last_line(text):
    lines = text.strip().splitlines()
    return lines[-1].removeprefix('bench: ') if lines else 'no reason given'


def install_packages():
    """Installs what is missing. Returns {peer's package: why it cannot be measured}."""
    done = _setup('need_packages $BUILD_PACKAGES $LAB_PACKAGES; load_modules')
    if done.returncode != 0:
        raise PrepareError(_last_line(done.stderr))
    unavailable = {}
    for package, programs in PEERS.items():  # one by one, so that one alone can be missing
        if all(map(shutil.which, programs)):
            continue
        done = _setup('need_packages "$@"', package)
        if done.returncode != 0:
            unavailable[package] = _last_line(done.stderr)
        elif not all(map(shutil.which, programs)):
            unavailable[package] = f'its package has no {" and ".join(programs)}'
    return unavailable


def _run(argv, folder, log):
    with open(log, 'a') as output:
        done = subprocess.run([str(word) for word in argv], cwd=folder, stdin=subprocess.DEVNULL,
                              stdout=output, stderr=output)
    if done.returncode != 0:
        raise PrepareError(f"'{argv[0]}' failed: see {log}")


def _compile(output, sources, *flags):
    sources = [pathlib.Path(source) for source in sources]
    headers = {header for source in sources for header in source.parent.glob('*.h')}
    newest = max(path.stat().st_mtime for path in [*sources, *headers])
    if output.exists() and output.stat().st_mtime > newest:
        return
    _run(['cc', '-std=c11', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', *flags, '-o', output,
          *sources], HERE, BUILD / 'log')


def build_tools():
    """Compiles our transfer program and the lab's emulator. Returns the path of the first."""
    BUILD.mkdir(exist_ok=True)
    _compile(BUILD / 'xfer', HERE.glob('xfer*.c'), '-pthread')
    if not os.environ.get('RORO_WAN'):
        _compile(BUILD / 'wan', (TOP / 'tests/lab').glob('wan*.c'))
        os.environ['RORO_WAN'] = str(BUILD / 'wan')
    return str(BUILD / 'xfer')


def find_daemon():
    """The program of $RORO_BUILD, else one that is built here, optimised."""
    named = os.environ.get('RORO_BUILD')
    folder = pathlib.Path(named) if named else BUILD / 'roro'
    if not named:
        done = _setup('build "$1" "CFLAGS=-O2" src/ro-ro-tcp', folder)
        if done.returncode != 0:
            raise PrepareError(done.stderr.strip())
    program = folder / 'src' / 'ro-ro-tcp'
    if not program.is_file():
        raise PrepareError(f'no {program}: build it, or unset RORO_BUILD')
    if any(name in program.read_bytes() for name in (b'__asan_init', b'__tsan_init')):
        raise PrepareError(f'{program} has a sanitizer in it, which would be what is measured')
    return str(program.resolve())


def fingerprint(program):
    """Names one build of a program."""
    return hashlib.sha256(pathlib.Path(program).read_bytes()).hexdigest()[:12]


def _version(package):
    done = subprocess.run(['dpkg-query', '-W', '-f', '${Version}', package], text=True,
                          capture_output=True)
    return done.stdout if done.returncode == 0 else None


def _processor():
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.machine()


def machine():
    """What the figures depend on besides what is measured."""
    sysctl = pathlib.Path('/proc/sys/net/ipv4')
    commit = subprocess.run(['git', '-C', str(TOP), 'describe', '--always', '--dirty'], text=True,
                            capture_output=True)
    return {
        'kernel': platform.release(),
        'processor': _processor(),
        'cores': os.cpu_count(),
        'tcp_wmem': (sysctl / 'tcp_wmem').read_text().split(),
        'tcp_rmem': (sysctl / 'tcp_rmem').read_text().split(),
        'commit': commit.stdout.strip() or None,
        'packages': {name: _version(name) for name in PEERS},
    }
