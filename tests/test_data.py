"piny_data as it is really run: against a hub on this machine, interrupted, killed, and with more text than it may hold in memory."
import hashlib, http.server, os, re, signal, subprocess, sys, threading, time
from pathlib import Path

import psutil, pytest
from piny.data import Dataset
from piny.grammar import grammar_stories
from piny.commands.data import REPO, REVISION, VERSIONS

COMMAND = [sys.executable, '-c', 'from piny.commands.data import main; main()']
STORIES = list(grammar_stories(3_000, seed=5))
FILES = {name: ('\n<|endoftext|>\n'.join(part) + '\n<|endoftext|>\n').encode() for name, part in zip(VERSIONS['V2-GPT4'], (STORIES[:2_900], STORIES[2_900:]))}

class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub's protocol as a download needs: where a file is, its hash and size, and any part of it."
    cut_after, asked, damage = None, [], False # break the connection after so many bytes; what was asked for; send other bytes

    def log_message(self, *args): pass
    def head(self):
        name = self.path.rsplit('/', 1)[-1]
        if self.path != f'/datasets/{REPO}/resolve/{REVISION}/{name}' or name not in FILES: self.send_error(404); return None
        content = FILES[name]
        start = int(re.match(r'bytes=(\d+)-', self.headers.get('Range') or 'bytes=0-')[1])
        Hub.asked.append((self.command, name, start))
        self.send_response(206 if start else 200)
        for header, value in {'ETag': f'"{hashlib.sha256(content).hexdigest()}"', 'X-Repo-Commit': REVISION, 'Accept-Ranges': 'bytes', 'Content-Length': len(content) - start,
                              **({'Content-Range': f'bytes {start}-{len(content)-1}/{len(content)}'} if start else {})}.items(): self.send_header(header, str(value))
        self.end_headers()
        return content[start:]
    def do_HEAD(self): self.head()
    def do_GET(self):
        content = self.head()
        if content is None: return
        if Hub.damage: content = content[:-1] + b'?'
        self.wfile.write(content[:Hub.cut_after])
        if Hub.cut_after: self.wfile.flush(); time.sleep(.5); self.connection.close()

@pytest.fixture
def hub():
    Hub.cut_after, Hub.asked, Hub.damage = None, [], False
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    server.shutdown()

def piny_data(*args, env={}): return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, timeout=200, env=os.environ | env)


# -- the hub

def test_download(hub, tmp_path):
    "The official files: fetched once, checked, encoded, reported."
    args = ['tinystories', '--vocab-size', 400, '--out', tmp_path]
    first = piny_data(*args, env=hub)
    assert first.returncode == 0, first.stderr
    assert 'train: 2,900 stories' in first.stdout and 'valid: 100 stories' in first.stdout and 'bytes per token' in first.stdout
    data = Dataset.open(first.stdout.split()[-1])
    assert [data.tokenizer.decode(ids) for ids in data.stories('valid')] == STORIES[2_900:]
    gets = [a for a in Hub.asked if a[0] == 'GET']
    assert [name for _, name, _ in gets] == list(VERSIONS['V2-GPT4'])
    assert piny_data(*args, env=hub).stdout == first.stdout and [a for a in Hub.asked if a[0] == 'GET'] == gets, 'nothing is fetched twice'

def test_an_interrupted_download_goes_on(hub, tmp_path, monkeypatch):
    name = VERSIONS['V2-GPT4'][0]
    monkeypatch.setitem(FILES, name, FILES[name] * (25_000_000 // len(FILES[name]))) # it arrives in portions of 10 MB
    Hub.cut_after = 12_000_000
    args = ['tinystories', '--vocab-size', 400, '--out', tmp_path]
    broken = subprocess.Popen([*COMMAND, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | hub)
    def arrived(): return sum(p.stat().st_size for p in tmp_path.rglob('*.part'))
    deadline = time.time() + 60
    while arrived() < 10_000_000: assert time.time() < deadline; time.sleep(.02)
    broken.kill(); broken.wait()
    Hub.cut_after, Hub.asked = None, []
    again = piny_data(*args, env=hub)
    assert again.returncode == 0, again.stderr
    assert next(start for verb, _, start in Hub.asked if verb == 'GET') >= 10_000_000, 'it begins where it ended'
    assert (tmp_path/'tinystories'/name).read_bytes() == FILES[name]

def test_a_damaged_download_is_refused(hub, tmp_path):
    Hub.damage = True
    out = piny_data('tinystories', '--vocab-size', 400, '--out', tmp_path, env=hub)
    assert out.returncode == 1 and 'arrived damaged' in out.stderr and 'Traceback' not in out.stderr, out.stderr
    assert not (tmp_path/'tinystories'/VERSIONS['V2-GPT4'][0]).exists()

@pytest.mark.parametrize('env', [dict(HF_ENDPOINT='http://127.0.0.1:9'), dict(HF_HUB_OFFLINE='1')])
def test_without_a_network(env, tmp_path):
    "The error names the file that could be put in place, and with it there the command works."
    args = ['tinystories', '--vocab-size', 400, '--out', tmp_path]
    out = piny_data(*args, env=env)
    path = tmp_path/'tinystories'/VERSIONS['V2-GPT4'][0]
    assert out.returncode == 1 and str(path) in out.stderr and 'Traceback' not in out.stderr, out.stderr
    for name, content in FILES.items():
        path.parent.mkdir(exist_ok=True)
        (path.parent/name).write_bytes(content)
    assert piny_data(*args, env=env).returncode == 0


# -- encoding

def test_a_killed_encoding_leaves_nothing_finished(tmp_path):
    (tmp_path/'tales.txt').write_text('\n'.join(STORIES * 10))
    args = [str(tmp_path/'tales.txt'), '--vocab-size', '400', '--out', str(tmp_path/'data')]
    process = subprocess.Popen([*COMMAND, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list(tmp_path.glob('data/*/train-*.bin')): assert time.time() < deadline; time.sleep(.01)
    process.send_signal(signal.SIGKILL); process.wait()
    assert not list(tmp_path.glob('data/*/meta.json'))
    assert piny_data(*args).returncode == 0
    assert not list(tmp_path.glob('data/unfinished-*')), 'what the killed one left is cleared away'
    folder, = (p.parent for p in tmp_path.glob('data/*/meta.json'))
    assert sum(1 for _ in Dataset.open(folder).stories('train')) == 28_500

def test_memory_does_not_grow_with_the_corpus(tmp_path):
    "Forty times the text, and less than 600 MB."
    most = []
    for times in (1, 40):
        with open(tmp_path/f'{times}.txt', 'w') as f:
            for _ in range(times): f.write('\n'.join(STORIES) + '\n')
        process = psutil.Popen([*COMMAND, str(tmp_path/f'{times}.txt'), '--valid', str(tmp_path/'1.txt') if times > 1 else '', '--vocab-size', '1000', '--out', str(tmp_path)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            try: peak = max(peak, process.memory_info().rss)
            except psutil.NoSuchProcess: break
            time.sleep(.05)
        assert process.wait() == 0
        most.append(peak)
    assert most[1] < 600e6 and most[1] - most[0] < 150e6, most
