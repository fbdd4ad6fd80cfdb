"The ablation notebooks as they are really run: by papermill and piny_ablate, in processes that can be killed."
import json, shutil, signal, subprocess, sys, time
from pathlib import Path

import papermill, psutil, pytest
from papermill.exceptions import PapermillExecutionError
from piny.record import load_records
from piny.grammar import grammar_stories

ROOT = Path(__file__).resolve().parent.parent
MEASURED = 'started seconds tokens_per_second peak_memory_bytes'.split() # all else in a record has to repeat
ABLATE = [sys.executable, '-c', 'from piny.commands.ablate import ablate; ablate()']

@pytest.fixture
def repo(tmp_path, monkeypatch):
    "A repository with the notebooks, a small corpus, and nothing run yet."
    shutil.copy(ROOT/'settings.ini', tmp_path)
    shutil.copytree(ROOT/'ablations', tmp_path/'ablations')
    (tmp_path/'tales.txt').write_text('\n'.join(grammar_stories(700, seed=1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path

def ablate(*args): return subprocess.run([*ABLATE, *args], capture_output=True, text=True, timeout=300)

def records(folder):
    "What the runs found out: records with their metrics, and the loss of each story."
    found = load_records(folder)
    for r in found: r['stories'] = (folder/f"{r['variant']}-{r['seed']}-{r['key']}"/'stories.npy').read_bytes()
    return {(r['variant'], r['seed']): {k: v for k, v in r.items() if k not in MEASURED} for r in found}


# -- what papermill would pass over in silence

@pytest.mark.parametrize('given, says', [(dict(sedes=5), "unknown parameter 'sedes', did you mean 'seeds'?"), (dict(preset='quik'), "unknown preset 'quik', did you mean 'quick'?"),
                                         (dict(corpus='no/such.txt'), 'no/such.txt')])
def test_papermill_with_a_bad_parameter(repo, given, says):
    with pytest.raises(PapermillExecutionError) as e: papermill.execute_notebook('ablations/norm.ipynb', 'out.ipynb', given, progress_bar=False)
    assert says in e.value.evalue and not (repo/'results').exists()

def test_papermill_without_the_tag(repo):
    nb = json.loads(Path('ablations/norm.ipynb').read_text())
    for cell in nb['cells']: cell['metadata'].pop('tags', None)
    Path('untagged.ipynb').write_text(json.dumps(nb))
    with pytest.raises(PapermillExecutionError, match='has lost its tag'): papermill.execute_notebook('untagged.ipynb', 'out.ipynb', dict(preset='small'), progress_bar=False)


# -- interrupted and continued

def test_sigkill_and_again(repo):
    args = ['norm', '--corpus', 'tales.txt', '--steps', '100', '--seeds', '2', '--workers', '2', '--study', 'tales']
    program = subprocess.Popen([*ABLATE, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 200
    while not list(repo.glob('results/tales/*/record.json')) and time.time() < deadline: time.sleep(.05)
    family = psutil.Process(program.pid).children(recursive=True)
    program.send_signal(signal.SIGKILL); program.wait()
    finished = {p: p.stat().st_mtime_ns for p in repo.glob('results/tales/*/record.json')}
    assert 0 < len(finished) < 4, 'the kill has to come in the middle'
    assert not psutil.wait_procs(family, timeout=20)[1], 'the kernel and its workers end with the program'

    again = ablate(*args)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in finished} == finished, 'what was finished is not run again'
    killed = records(repo/'results'/'tales')
    assert set(killed) == {(v, s) for v in ('baseline', 'layernorm') for s in (0, 1)}
    assert '4/4 runs' in again.stderr and 'tok/s' in again.stderr
    assert 'figures/tales/norm.svg' in again.stdout and 'figures/tales/overview.png' in again.stdout and 'LayerNorm' in again.stdout
    assert {p.name for p in (repo/'figures'/'tales').iterdir()} == {f'{n}.{s}' for n in ('norm', 'overview') for s in ('svg', 'png')}

    pictures = {p: p.read_bytes() for p in (repo/'figures').rglob('*.*')}
    third = ablate(*args)
    assert 'tok/s' not in third.stderr, 'nothing is left to train'
    assert {p: p.read_bytes() for p in (repo/'figures').rglob('*.*')} == pictures, 'same records, same bytes'

    shutil.rmtree(repo/'results')
    assert ablate(*args).returncode == 0
    assert records(repo/'results'/'tales') == killed, 'as if it had never been killed'


# -- commands typed wrong

@pytest.mark.parametrize('args, says', [(['postion'], "unknown question 'postion', did you mean 'position'?"), (['--sedes', '3'], "unknown option '--sedes', did you mean '--seeds'?"),
                                        (['--corpus', 'empty.txt'], 'empty.txt'), (['--corpus', 'short.txt'], 'short.txt'),
                                        (['--corpus', 'tales.txt', '--preset', 'piny'], 'vocab_size')])
def test_a_bad_command(repo, args, says):
    (repo/'empty.txt').write_text(''); (repo/'short.txt').write_text('One day.\nTwo days.\n')
    out = ablate(*args)
    assert out.returncode != 0 and says in out.stderr and 'Traceback' not in out.stderr, out.stderr
