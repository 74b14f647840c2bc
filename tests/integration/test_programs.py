# SPDX-License-Identifier: ISC
"""Programs that people use, through the gateway. The servers run without root's rights."""

import hashlib
import json
import os
import pathlib
import pwd
import shutil
import subprocess

import pytest
from harness import wait_for
from traffic import MIB, noise

PROGRAMS = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
ACCOUNT = 'postgres'  # of Debian's postgresql: not root, and with a shell, which sshd wants


def tool(name, package):
    """The path of a program; a missing one is a failure, not a test to skip."""
    path = shutil.which(name, path=PROGRAMS)
    assert path, f'{name} is not there: apt-get install {package}'
    return path


def postgres_tool(name):
    found = sorted(pathlib.Path('/usr/lib/postgresql').glob(f'*/bin/{name}'))
    assert found, f'{name} is not there: apt-get install postgresql'
    return str(found[-1])


@pytest.fixture
def place(folder):
    """A folder that belongs to the account."""
    account = pwd.getpwnam(ACCOUNT)
    path = folder / 'server'
    path.mkdir(mode=0o700)
    os.chown(path, account.pw_uid, account.pw_gid)
    return path


def give(path):
    account = pwd.getpwnam(ACCOUNT)
    os.chown(path, account.pw_uid, account.pw_gid)
    return str(path)


def as_account(*words):
    return ['setpriv', f'--reuid={ACCOUNT}', f'--regid={ACCOUNT}', '--clear-groups', *words]


def listens(program, port):
    """Without a connection to try it, which a server of one client at a time might mind."""
    assert program.running(), '\n'.join(program.log()[-20:])
    for table in ('tcp', 'tcp6'):
        for line in pathlib.Path(f'/proc/{program.pid}/net/{table}').read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == '0A' and int(local.rpartition(':')[2], 16) == port:
                return True
    return False


@pytest.fixture
def serve(start):
    """serve(port, word, ...) runs a server as the account, and waits until it listens."""
    def make(port, *words, **kw):
        program = start.program('server', as_account(*words), stdout=subprocess.DEVNULL, **kw)

        wait_for(f'{words[0]} to listen', lambda: listens(program, port))
        return program

    return make


def run_on_client(lab, *words, timeout=60, **kw):
    done = lab.run('client', list(words), timeout=timeout, check=False, **kw)
    assert done.returncode == 0, f'{words[0]} ended with {done.returncode}: {done.stderr[-2000:]}'
    return done.stdout


def captured(gateway, at_least):
    assert gateway.proxy.counter('flows_total') >= at_least, 'it went around the gateway'


# --- curl, TLS, nginx ----------------------------------------------------------------------------

NGINX = '''
daemon off; pid {place}/pid; error_log stderr; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    server {{
        listen 8443 ssl; listen [::]:8443 ssl;
        ssl_certificate {place}/cert.pem; ssl_certificate_key {place}/key.pem;
        root {place};
    }}
}}
'''


def make_certificate(place):
    subprocess.run([tool('openssl', 'openssl'), 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
                    'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=server.test',
                    '-addext', 'subjectAltName=DNS:server.test', '-keyout', place / 'key.pem',
                    '-out', place / 'cert.pem'], check=True, capture_output=True)
    for name in ('key.pem', 'cert.pem'):
        give(place / name)


@pytest.mark.parametrize('family', [4, 6])
def test_curl_over_tls(gateway, lab, serve, place, folder, family):
    make_certificate(place)
    data = noise(20 * MIB)
    (place / 'file').write_bytes(data)
    give(place / 'file')
    (place / 'nginx.conf').write_text(NGINX.format(place=place))
    give(place / 'nginx.conf')
    serve(8443, tool('nginx', 'nginx-light'), '-e', 'stderr', '-p', str(place), '-c',
          str(place / 'nginx.conf'))
    address = lab.address('server', family)
    there = f'[{address}]' if family == 6 else address
    shutil.copy(place / 'cert.pem', folder / 'cert.pem')
    curl = [tool('curl', 'curl'), '--silent', '--show-error', '--fail', '--cacert',
            str(folder / 'cert.pem'), '--resolve', f'server.test:8443:{there}']
    url = 'https://server.test:8443/file'
    run_on_client(lab, *curl, '--output', str(folder / 'one'), url)
    assert hashlib.sha256((folder / 'one').read_bytes()).digest() == hashlib.sha256(data).digest()
    run_on_client(lab, *curl, '--range', '1000000-1999999', '--output', str(folder / 'part'), url)
    assert (folder / 'part').read_bytes() == data[1_000_000:2_000_000]
    assert run_on_client(lab, *curl, '--output', '/dev/null', '--output', '/dev/null', '--parallel',
                         '--write-out', '%{http_code} ', url, url) == '200 200 '
    captured(gateway, 3)


# --- iperf3 --------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('options', [[], ['--reverse'], ['--bidir'], ['--parallel', '4']],
                         ids=['up', 'down', 'both ways', 'four at once'])
def test_iperf3(gateway, lab, serve, options):
    iperf3 = tool('iperf3', 'iperf3')
    program = serve(5201, iperf3, '--server', '--forceflush')

    def measure():
        told = json.loads(run_on_client(lab, iperf3, '--client', lab.address('server'), '--json',
                                        '--time', '1', *options))
        assert 'error' not in told
        return told['end']

    end = measure()
    if '--bidir' in options:
        # The server tells its two data connections apart by the order in which it accepts them, and
        # connections that a client makes one after the other may change places on the way
        # (doc/deploy.md). Both ends then send on one and wait on the other, and count 0 bytes.
        for _ in range(10):
            if end['sum_received']['bytes'] or end['sum_received_bidir_reverse']['bytes']:
                break
            end = measure()
        assert end['sum_received_bidir_reverse']['bytes'] > MIB
    assert end['sum_received']['bytes'] > MIB
    captured(gateway, 2)
    assert program.running()


# --- ssh -----------------------------------------------------------------------------------------

SSHD = '''
Port 2222
HostKey {place}/host
AuthorizedKeysFile {place}/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
Subsystem sftp internal-sftp
'''


def make_key(path):
    subprocess.run([tool('ssh-keygen', 'openssh-client'), '-q', '-t', 'ed25519', '-N', '', '-f',
                    str(path)], check=True, capture_output=True)


def test_ssh_and_scp(gateway, lab, serve, place, folder):
    make_key(place / 'host')
    make_key(folder / 'identity')
    shutil.copy(folder / 'identity.pub', place / 'authorized')
    (place / 'sshd_config').write_text(SSHD.format(place=place))
    for name in ('host', 'host.pub', 'authorized', 'sshd_config'):
        give(place / name)
    serve(2222, tool('sshd', 'openssh-server'), '-D', '-e', '-f', str(place / 'sshd_config'))
    options = ['-F', 'none', '-i', str(folder / 'identity'), '-o', 'BatchMode=yes',
               '-o', 'StrictHostKeyChecking=no', '-o', f'UserKnownHostsFile={folder}/known']
    host = f'{ACCOUNT}@{lab.address("server")}'
    ssh = [tool('ssh', 'openssh-client'), *options, '-p', '2222', host]
    scp = [tool('scp', 'openssh-client'), '-q', *options, '-P', '2222']
    data = noise(10 * MIB)
    (folder / 'data').write_bytes(data)
    assert run_on_client(lab, *ssh, 'echo hello') == 'hello\n'
    run_on_client(lab, *scp, str(folder / 'data'), f'{host}:{place}/copy')
    assert (place / 'copy').read_bytes() == data
    run_on_client(lab, *scp, f'{host}:{place}/copy', str(folder / 'back'))
    assert (folder / 'back').read_bytes() == data
    # Standard input ends, the output goes on: the half-close that scripts rely on.
    assert run_on_client(lab, *ssh, 'sha256sum', input='all of it').split()[0] \
        == hashlib.sha256(b'all of it').hexdigest()
    captured(gateway, 4)


# --- PostgreSQL ----------------------------------------------------------------------------------

@pytest.mark.slow
def test_postgresql(gateway, lab, serve, place):
    base = place / 'base'
    initdb = as_account(postgres_tool('initdb'), '--no-sync', '--auth=trust', '-D', str(base))
    subprocess.run(initdb, check=True, capture_output=True, cwd='/')
    with open(base / 'pg_hba.conf', 'a') as file:
        file.write('host all all 0.0.0.0/0 trust\n')
    serve(5432, postgres_tool('postgres'), '-D', str(base), '-k', str(place), '-h', '*', '-F')
    psql = [tool('psql', 'postgresql'), '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-h',
            lab.address('server'), '-U', ACCOUNT, 'postgres']
    assert run_on_client(lab, *psql, '-c', 'select 6 * 7') == '42\n'
    rows = ''.join(f'{i}\t{noise(40, i).hex()}\n' for i in range(60_000))
    run_on_client(lab, *psql, '-c', 'create table t (i int, x text)')
    run_on_client(lab, *psql, '-c', 'copy t from stdin', input=rows)
    assert run_on_client(lab, *psql, '-c', 'select count(*), sum(i) from t') \
        == f'60000|{sum(range(60_000))}\n'
    assert run_on_client(lab, *psql, '-c', 'copy (select * from t order by i) to stdout') == rows
    many = ''.join(f'select {i};\n' for i in range(500))  # each is a round trip
    assert run_on_client(lab, *psql, input=many) == ''.join(f'{i}\n' for i in range(500))
    captured(gateway, 6)
