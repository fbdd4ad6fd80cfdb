"piny_data as it is really run: against a hub on this machine, interrupted, killed, two at once, and with more text than it may hold in memory."
import fcntl, hashlib, http.server, os, pty, re, signal, struct, subprocess, sys, termios, threading, time
from pathlib import Path

import psutil, pytest
from piny.data import Dataset, data_names, prepare
from piny.grammar import grammar_stories
from piny.commands.data import REPO, REVISION, VERSIONS

COMMAND = [sys.executable, '-c', 'from piny.commands.data import main; main()']
SIGNALLED = """
import os, sys, piny.data
from piny.commands.data import main
signal = int(sys.argv.pop())
write = piny.data.Shards.write
def once(shards, row):
    piny.data.Shards.write = write
    write(shards, row)
    os.kill(os.getpid(), signal)
piny.data.Shards.write = once
main()
""" # it gets the signal that is its last argument when it has written its first tokens
STORIES = list(grammar_stories(3_000, seed=5))

def marked(stories): return ''.join(f'{story}\n<|endoftext|>\n' for story in stories).encode()
FILES = dict(zip(VERSIONS['V2-GPT4'], (marked(STORIES[:2_900]), marked(STORIES[2_900:]))))

class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub's protocol as a download needs: where a file is, its hash and size, and any part of it."
    cut_after = None # break the connection after so many bytes
    asked = []       # (verb, name, first byte)
    damage = False   # send other bytes

    def log_message(self, *args): pass

    def head(self):
        name = self.path.rsplit('/', 1)[-1]
        if self.path != f'/datasets/{REPO}/resolve/{REVISION}/{name}' or name not in FILES:
            self.send_error(404)
            return None
        content = FILES[name]
        start = int(re.match(r'bytes=(\d+)-', self.headers.get('Range') or 'bytes=0-')[1])
        Hub.asked.append((self.command, name, start))
        self.send_response(206 if start else 200)
        headers = {'ETag': f'"{hashlib.sha256(content).hexdigest()}"',
                   'X-Repo-Commit': REVISION,
                   'Accept-Ranges': 'bytes',
                   'Content-Length': len(content) - start}
        if start: headers['Content-Range'] = f'bytes {start}-{len(content)-1}/{len(content)}'
        for header, value in headers.items(): self.send_header(header, str(value))
        self.end_headers()
        return content[start:]

    def do_HEAD(self): self.head()

    def do_GET(self):
        content = self.head()
        if content is None: return
        if Hub.damage: content = content[:-1] + b'?'
        self.wfile.write(content[:Hub.cut_after])
        if not Hub.cut_after: return
        self.wfile.flush()
        time.sleep(.5)
        self.connection.close()

@pytest.fixture
def hub():
    Hub.cut_after = None
    Hub.asked = []
    Hub.damage = False
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HUB_DISABLE_XET='1',
               HF_HUB_DISABLE_TELEMETRY='1')
    server.shutdown()

def piny_data(*args, env={}):
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, timeout=200,
                          env=os.environ | env)

def started(*args, at_first_tokens=None, env={}, **kwargs):
    "The command, going on; its output is thrown away."
    command = [*COMMAND, *map(str, args)]
    if at_first_tokens: command = [sys.executable, '-c', SIGNALLED, *map(str, args), str(int(at_first_tokens))]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.Popen(command, env=os.environ | env, **quiet | kwargs)

def wait_until(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(.01)

def hidden(folder): return sorted(name for name in os.listdir(folder) if name.startswith('.'))


# -- the hub

def test_download(hub, tmp_path):
    "The official files: fetched once, checked, encoded, reported."
    args = ['tinystories', '--vocab-size', 400, '--out', tmp_path]
    first = piny_data(*args, env=hub)
    assert first.returncode == 0, first.stderr
    assert 'train: 2,900 stories' in first.stdout and 'valid: 100 stories' in first.stdout
    data = Dataset.open(re.search('all in (.*)', first.stdout)[1])
    assert data.folder.name == 'tinystories-400'
    assert [data.tokenizer.decode(ids) for ids in data.stories('valid')] == STORIES[2_900:]
    gets = [a for a in Hub.asked if a[0] == 'GET']
    assert [name for _, name, _ in gets] == list(VERSIONS['V2-GPT4'])
    assert piny_data(*args, env=hub).stdout == first.stdout
    assert [a for a in Hub.asked if a[0] == 'GET'] == gets, 'nothing is fetched twice'

def test_an_interrupted_download_goes_on(hub, tmp_path, monkeypatch):
    name = VERSIONS['V2-GPT4'][0]
    times = 25_000_000 // len(FILES[name]) # it arrives in portions of 10 MB
    monkeypatch.setitem(FILES, name, FILES[name] * times)
    Hub.cut_after = 12_000_000
    args = ['tinystories', '--vocab-size', 400, '--out', tmp_path]
    broken = started(*args, env=hub)
    wait_until(lambda: sum(p.stat().st_size for p in tmp_path.rglob('*.part')) >= 10_000_000)
    broken.kill()
    broken.wait()
    Hub.cut_after = None
    Hub.asked = []
    again = piny_data(*args, env=hub)
    assert again.returncode == 0, again.stderr
    first = next(start for verb, _, start in Hub.asked if verb == 'GET')
    assert first >= 10_000_000, 'it begins where it ended'
    assert (tmp_path/'tinystories'/name).read_bytes() == FILES[name]

def test_a_damaged_download_is_refused(hub, tmp_path):
    Hub.damage = True
    out = piny_data('tinystories', '--vocab-size', 400, '--out', tmp_path, env=hub)
    assert out.returncode == 1 and 'arrived damaged' in out.stderr, out.stderr
    assert 'Traceback' not in out.stderr
    assert not (tmp_path/'tinystories'/VERSIONS['V2-GPT4'][0]).exists()

@pytest.mark.parametrize('env', [dict(HF_ENDPOINT='http://127.0.0.1:9'), dict(HF_HUB_OFFLINE='1')])
def test_without_a_network(env, tmp_path):
    "The error names the file that could be put in place, and with it there the command works."
    args = ['tinystories', '--vocab-size', 400, '--out', tmp_path]
    out = piny_data(*args, env=env)
    path = tmp_path/'tinystories'/VERSIONS['V2-GPT4'][0]
    assert out.returncode == 1 and str(path) in out.stderr and 'Traceback' not in out.stderr, out.stderr
    for name, content in FILES.items(): (path.parent/name).write_bytes(content)
    assert piny_data(*args, env=env).returncode == 0


# -- encoding

@pytest.fixture
def tales(tmp_path):
    "A file of 3,000 stories."
    path = tmp_path/'tales.txt'
    path.write_text('\n'.join(STORIES))
    return path

def test_a_killed_encoding_leaves_nothing_finished(tmp_path, tales):
    args = [tales, '--vocab-size', 400, '--out', tmp_path/'data']
    assert started(*args, at_first_tokens=signal.SIGKILL).wait() == -signal.SIGKILL
    assert data_names(tmp_path/'data') == []
    assert hidden(tmp_path/'data') == ['.lock-tales-400', '.surveys', '.tales-400.part']
    assert piny_data(*args[:1], '--vocab-size', 401, *args[3:]).returncode == 0
    assert hidden(tmp_path/'data') == ['.surveys'], 'what the killed one left is cleared away'
    assert piny_data(*args).returncode == 0
    assert sum(1 for _ in Dataset.open(tmp_path/'data'/'tales-400', check=True).stories('train')) == 2_850

def test_live_work_is_not_taken_for_a_dead_ones(tmp_path, tales):
    "Another one that starts does not delete what a stopped one has begun, and waits for it where it wants the same."
    args = [tales, '--vocab-size', 400, '--out', tmp_path/'data']
    first = started(*args, at_first_tokens=signal.SIGSTOP)
    wait_until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED)
    assert piny_data(*args[:1], '--vocab-size', 401, *args[3:]).returncode == 0
    assert '.tales-400.part' in hidden(tmp_path/'data')
    second = started(*args, stderr=subprocess.PIPE)
    said = b''
    while b'waiting for it' not in said: # within seconds
        assert second.poll() is None
        said += os.read(second.stderr.fileno(), 4096)
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0 and second.wait() == 0
    assert data_names(tmp_path/'data') == ['tales-400', 'tales-401'] and hidden(tmp_path/'data') == ['.surveys']
    Dataset.open(tmp_path/'data'/'tales-400', check=True)

def test_two_corpora_of_one_name_at_once(tmp_path):
    for n, folder in enumerate(('one', 'two')):
        (tmp_path/folder).mkdir()
        (tmp_path/folder/'tales.txt').write_text('\n'.join(STORIES[n*1000:n*1000 + 1000]))
    both = [started(tmp_path/folder/'tales.txt', '--vocab-size', 400, '--out', tmp_path/'data')
            for folder in ('one', 'two')]
    assert [process.wait() for process in both] == [0, 0]
    names = data_names(tmp_path/'data')
    assert len(names) == 2 and names[0] == 'tales-400' and names[1].startswith('tales-400-')
    first = {Dataset.open(tmp_path/'data'/name).tokenizer.fingerprint for name in names}
    assert len(first) == 2

def test_ctrl_c(tmp_path, tales):
    process = started(tales, '--vocab-size', 400, '--out', tmp_path/'data', at_first_tokens=signal.SIGINT,
                      stderr=subprocess.PIPE, text=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and 'the same command goes on' in said and 'Traceback' not in said
    assert hidden(tmp_path/'data') == ['.surveys']

def test_every_rename_is_followed_by_its_folders_sync(tmp_path, monkeypatch):
    "So that names survive a loss of power."
    calls = []
    replace = os.replace
    fsync = os.fsync
    def recording_replace(old, new):
        replace(old, new)
        calls.append(('rename', os.stat(Path(new).parent).st_ino))
    def recording_fsync(fd):
        fsync(fd)
        calls.append(('sync', os.fstat(fd).st_ino))
    monkeypatch.setattr(os, 'replace', recording_replace)
    monkeypatch.setattr(os, 'fsync', recording_fsync)
    class Stamped(list): stamp = 'monday'
    data = prepare(Stamped(STORIES[:300]), STORIES[300:320], 400, tmp_path/'data')
    renames = [i for i, (what, _) in enumerate(calls) if what == 'rename']
    assert len(renames) == 3, 'of the survey, of the tokenizer, and of the data'
    for i in renames: assert calls[i+1] == ('sync', calls[i][1])
    synced = {inode for what, inode in calls[:renames[-1]] if what == 'sync'}
    assert {path.stat().st_ino for path in data.folder.iterdir()} <= synced

def test_a_terminal_that_reports_no_size_shows_progress(tmp_path, tales):
    "0 columns and 0 lines make a blank bar."
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 0, 0, 0, 0))
    process = started(tales, '--vocab-size', 400, '--out', tmp_path/'data', stderr=theirs)
    os.close(theirs)
    shown = b''
    try:
        while part := os.read(ours, 4096): shown += part
    except OSError: pass # the other end was closed
    assert process.wait() == 0
    os.close(ours)
    assert 'reading tales.txt: ' in shown.decode(), shown

def test_memory_does_not_grow_with_the_corpus(tmp_path):
    "Forty times the text, and less than 600 MB."
    most = []
    for times in (1, 40):
        with open(tmp_path/f'{times}.txt', 'w') as file:
            for _ in range(times): file.write('\n'.join(STORIES) + '\n')
        valid = tmp_path/'1.txt' if times > 1 else ''
        process = started(tmp_path/f'{times}.txt', '--valid', valid, '--vocab-size', 1000, '--out', tmp_path/'data')
        watched = psutil.Process(process.pid)
        peak = 0
        while process.poll() is None:
            try: peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess: break
            time.sleep(.05)
        assert process.wait() == 0
        most.append(peak)
    assert most[1] < 600e6 and most[1] - most[0] < 150e6, most
