# SPDX-License-Identifier: ISC
"""The command line: bad options, keygen, check, status. Nothing here needs the lab's WAN."""

import json
import os
import re
import stat
import subprocess

import pytest
from harness import find_program

HEX_KEY = re.compile(r'^[0-9a-f]{16}:[0-9a-f]{64}$', re.M)


def run(*words, **kw):
    return subprocess.run([find_program(), *words], capture_output=True, text=True, timeout=20,
                          **kw)


def usage_error(*words):
    """It must end with 2 and one line that names the program; returns the line."""
    done = run(*words)
    assert done.returncode == 2, f'ended with {done.returncode}: {done.stderr}'
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('ro-ro-tcp: '), done.stderr
    assert done.stdout == ''
    return lines[0]


PROXY = ['--relay', '192.0.2.1']
RELAY = ['--insecure']
BAD_OPTIONS = [
    # role, options, what the line must name
    ('proxy', [], 'relay'),
    ('proxy', [*PROXY, '--no-such-option'], '--no-such-option'),
    ('proxy', [*PROXY, 'word'], 'word'),
    ('proxy', [*PROXY, '--stripes', 'abc'], '--stripes: "abc" is not a number from 1 to 128'),
    ('proxy', [*PROXY, '--stripes', '0'], '--stripes'),
    ('proxy', [*PROXY, '--stripes', '129'], '--stripes'),
    ('proxy', [*PROXY, '--stripes', '-1'], '--stripes'),
    ('proxy', [*PROXY, '--stripes', '8x'], '--stripes'),
    ('proxy', [*PROXY, '--stripes', ''], '--stripes'),
    ('proxy', [*PROXY, '--stripes', '99999999999999999999'], '--stripes'),
    ('proxy', [*PROXY, '--stripes'], '--stripes'),
    ('proxy', [*PROXY, '--pool', '8'], '--pool'),
    ('proxy', [*PROXY, '--pool', '9:8'], '--pool'),
    ('proxy', [*PROXY, '--pool', '0:1025'], '--pool'),
    ('proxy', [*PROXY, '--capture', 'magic'], '--capture'),
    ('proxy', [*PROXY, '--protocol', 'other'], '--protocol'),
    ('proxy', [*PROXY, '--workers', '0'], '--workers'),
    ('proxy', [*PROXY, '--workers', '65'], '--workers'),
    ('proxy', [*PROXY, '--conntrack-zone', '65536'], '--conntrack-zone'),
    ('proxy', [*PROXY, '--connect-timeout', '0'], '--connect-timeout'),
    ('proxy', [*PROXY, '--grace', '-1'], '--grace'),
    ('proxy', [*PROXY, '--grace', 'soon'], '--grace'),
    ('proxy', [*PROXY, '--listen', '70000'], '--listen'),
    ('proxy', [*PROXY, '--listen', '1.2.3:80'], '--listen'),
    ('proxy', ['--relay', ''], '--relay'),
    ('proxy', ['--relay', '192.0.2.1:0'], '--relay'),
    ('proxy', ['--relay', '192.0.2.1:99999'], '--relay'),
    ('proxy', [*PROXY, '--key', '/nonexistent/key'], '/nonexistent/key'),
    ('proxy', [*PROXY, '--key', '/dev/null'], '/dev/null'),
    ('proxy', [*PROXY, '--protocol', 'base', '--key', '/dev/null'], '--key'),
    ('proxy', [*PROXY, '--protocol', 'base', '--pool', '1:2'], '--pool'),
    ('proxy', [*PROXY, '--verbose', '--quiet'], '--quiet'),
    ('proxy', [*PROXY, '--allow', 'any'], '--allow'),
    ('proxy', [*PROXY, '--config', '/nonexistent/config'], '/nonexistent/config'),
    ('relay', [], '--key'),
    ('relay', ['--key', '/nonexistent/key'], '/nonexistent/key'),
    ('relay', [*RELAY, '--allow-base'], '--server'),
    ('relay', [*RELAY, '--server', '192.0.2.1:80'], '--allow-base'),
    ('relay', [*RELAY, '--allow-base', '--server', '192.0.2.1'], '--server'),
    ('relay', [*RELAY, '--allow', 'nowhere'], '--allow'),
    ('relay', [*RELAY, '--deny', '10.0.0.0/33'], '--deny'),
    ('relay', [*RELAY, '--deny', '10.0.0.0/8:http'], '--deny'),
    ('relay', [*RELAY, '--deny', 'any:2-1'], '--deny'),
    ('relay', [*RELAY, '--max-groups', '0'], '--max-groups'),
    ('relay', [*RELAY, '--stripes', '8'], '--stripes'),
]


@pytest.mark.parametrize('role, options, named', BAD_OPTIONS,
                         ids=[' '.join([role, *options]) for role, options, _ in BAD_OPTIONS])
@pytest.mark.parametrize('command', ['run', 'check'])
def test_bad_options(command, role, options, named):
    words = [role, *options] if command == 'run' else ['check', role, *options]
    assert named in usage_error(*words)


@pytest.mark.parametrize('words', [[], ['frobnicate'], ['--frobnicate'], ['check'],
                                   ['check', 'both'], ['keygen', 'file'], ['status', '--control'],
                                   ['status', 'word']],
                         ids=lambda words: ' '.join(words) or 'nothing')
def test_bad_commands(words):
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith('ro-ro-tcp') and not done.stdout


@pytest.mark.parametrize('words', [['--help'], ['proxy', '--help'], ['relay', '--help'],
                                   ['status', '--help'], ['keygen', '--help'], ['check', '--help']],
                         ids=' '.join)
def test_help(words):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'ro-ro-tcp' in done.stdout


def test_version():
    done = run('--version')
    assert done.returncode == 0 and re.match(r'ro-ro-tcp \d', done.stdout)


# --- keys and configuration ---------------------------------------------------------------------

def test_keygen():
    keys = {HEX_KEY.search(run('keygen').stdout)[0] for _ in range(5)}
    assert len(keys) == 5


def test_keygen_says_when_it_cannot_write():
    with open('/dev/full', 'w') as full:
        done = subprocess.run([find_program(), 'keygen'], stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=20)
    assert done.returncode == 1 and done.stderr.startswith('ro-ro-tcp: keygen: ')


def test_check_takes_what_keygen_makes(tmp_path):
    path = tmp_path / 'key'
    path.write_text(run('keygen').stdout)
    path.chmod(0o600)
    for words in (['proxy', *PROXY], ['relay']):
        done = run('check', *words, '--key', str(path))
        assert done.returncode == 0, done.stderr
        assert 'configuration is good' in done.stdout + done.stderr


@pytest.mark.parametrize('text, where', [
    ('nonsense\n', ':1:'), ('00:11\n', ':1:'), ('# only a comment\n', ''),
    ('0011223344556677:' + 'ab' * 32 + '\n0011223344556677:' + 'cd' * 32 + '\n', ':2:'),
    ('0000000000000000:' + 'ab' * 32 + '\n', ':1:'),
    ('0011223344556677:' + '00' * 32 + '\n', ':1:'),
    ('0011223344556677:' + 'ab' * 31 + '\n', ':1:')],
    ids=['words', 'short', 'empty', 'same id twice', 'zero id', 'zero secret', 'short secret'])
def test_bad_key_file(tmp_path, text, where):
    path = tmp_path / 'key'
    path.write_text(text)
    path.chmod(0o600)
    line = usage_error('check', 'relay', '--key', str(path))
    assert str(path) + where in line
    assert 'ab' * 31 not in line, 'the secret is in the message'


def test_configuration_file(tmp_path):
    path = tmp_path / 'config'
    path.write_text('# of both roles\n[proxy]\nrelay = 192.0.2.1\nstripes = 4\ncapture = redirect\n'
                    '[relay]\ninsecure = yes\nallow = 10.0.0.0/8:80,443\nallow = 127.0.0.1\n')
    assert run('check', 'proxy', '--config', str(path)).returncode == 0
    assert run('check', 'relay', '--config', str(path)).returncode == 0


@pytest.mark.parametrize('text, where', [
    ('[proxy]\nrelay = 192.0.2.1\nstripe = 4\n', ':3: stripe'),
    ('[proxy]\nrelay = 192.0.2.1\nstripes = many\n', ':3: stripes'),
    ('relay = 192.0.2.1\n', ':1: relay'),
    ('[proxy]\nrelay = 192.0.2.1\nallow = any\n', ':3: allow'),
    ('[proxy\nrelay = 192.0.2.1\n', ':1'),
    ('[proxy]\nrelay = 192.0.2.1\n[others]\nfoo = bar\n', ':4: foo')],
    ids=['unknown key', 'bad value', 'no section', 'key of the other role', 'no end of a section',
         'unknown section'])
def test_bad_configuration_file(tmp_path, text, where):
    path = tmp_path / 'config'
    path.write_text(text)
    assert f'{path}{where}' in usage_error('check', 'proxy', '--config', str(path))


def test_command_line_wins_over_the_file(lab, start, folder):
    path = folder / 'config'
    path.write_text('[relay]\ninsecure = yes\nlisten = 9999\nno-splice = yes\n')
    path.chmod(0o644)
    relay = start('relay', 'relay', '--config', str(path), '--listen', '9555', '--workers', '1')
    relay.wait_log(r'^ready: relay on \[::\]:9555, \w+, copy$')


# --- a running daemon ----------------------------------------------------------------------------

def test_ready_lines(start, lab):
    relay = start('relay', 'relay', '--insecure', '--workers', '1')
    relay.wait_log(r'^ready: relay on \[::\]:9301, (bbr|cubic), splice$')
    proxy = start('gw', 'proxy', '--relay', lab.address('relay'), '--workers', '1',
                  '--stripes', '3:3', '--no-splice', '--congestion', 'cubic')
    proxy.wait_log(r'^ready: proxy on \[::\]:9300 \(tproxy\), relay 10\.77\.2\.2:9301, '
                   r'up to 3 stripes, cubic, copy$')


def test_port_0_is_told(start, lab, sockets):
    relay = start('relay', 'relay', '--insecure', '--workers', '2', '--listen', '127.0.0.1:0')
    port = int(re.search(r'127\.0\.0\.1:(\d+),', relay.wait_log('ready: '))[1])
    assert port != 0
    for _ in range(4):  # each worker listens there
        sockets(lab.socket('relay')).connect(('127.0.0.1', port))


def test_quiet_and_verbose(start):
    assert run('check', 'relay', '--insecure', '--quiet').returncode == 0
    verbose = start('relay', 'relay', '--insecure', '--workers', '1', '--verbose')
    assert len(verbose.log()) > 2


def test_unknown_congestion_control(lab):
    done = lab.run('relay', [find_program(), 'relay', '--insecure', '--control', 'none',
                             '--congestion', 'nosuch'], check=False, timeout=10)
    assert done.returncode in (1, 2)
    assert 'nosuch' in done.stderr.splitlines()[-1]


def test_unknown_user(lab):
    done = lab.run('relay', [find_program(), 'relay', '--insecure', '--control', 'none',
                             '--user', 'no-such-user'], check=False, timeout=10)
    assert done.returncode in (1, 2)
    assert 'no-such-user' in done.stderr.splitlines()[-1]


def test_status(start):
    relay = start('relay', 'relay', '--insecure', '--workers', '2')
    told = json.loads(run('status', '--control', relay.control, '--json').stdout)
    assert told['role'] == 'relay' and told['pid'] == relay.pid and told['workers'] == 2
    assert told['splice'] is True and told['uptime_seconds'] >= 0
    assert told['counters'] == relay.counters()
    for name in ('flows_now', 'flows_total', 'stripes_now', 'bytes_in', 'bytes_out', 'pipes_now'):
        assert isinstance(told['counters'][name], int)
    text = run('status', '--control', relay.control).stdout
    assert 'relay' in text and len(text.splitlines()) > 5


def test_control_socket_is_not_for_everybody(start):
    relay = start('relay', 'relay', '--insecure', '--workers', '1')
    assert stat.S_IMODE(os.stat(relay.control).st_mode) & 0o007 == 0
    relay.stop()
    assert not os.path.exists(relay.control), 'the socket was left behind'


def test_status_of_nobody(tmp_path):
    done = run('status', '--control', str(tmp_path / 'nobody'))
    assert done.returncode == 1
    assert str(tmp_path / 'nobody') in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('path', ['/nonexistent/folder/socket', '/dev/null', '/' + 'x' * 200])
def test_control_socket_that_cannot_be(lab, path):
    done = lab.run('relay', [find_program(), 'relay', '--insecure', '--control', path], check=False,
                   timeout=10)
    assert done.returncode in (1, 2)
    assert '--control' in done.stderr.splitlines()[-1]


def test_no_control_socket(start):
    relay = start('relay', 'relay', '--insecure', '--workers', '1', '--control', 'none',
                  control=False)
    assert relay.running()
