"Studies as they are really run: by papermill and piny_ablate, several at once, killed and continued."
import json, os, shutil, signal, socket, subprocess, sys
from pathlib import Path

import papermill, psutil, pytest
from papermill.exceptions import PapermillExecutionError
from piny.grammar import grammar_stories
from piny.record import load_records

ROOT = Path(__file__).resolve().parent.parent
MEASURED = 'started seconds tokens_per_second peak_memory_bytes'.split() # all else has to repeat
ABLATE = [sys.executable, '-c', 'from piny.commands.ablate import ablate; ablate()']
TALES = 'norm --corpus tales.txt --steps 10 --lr 0.01 --seeds 2 --workers 2 --study tales'.split()
# what piny_ablate does, without the notebook and the figures
SWEEP = [sys.executable, '-c', """if __name__ == '__main__':
    from piny.plan import Study
    from piny.sweep import failures, sweep
    import os
    study = Study(corpus='tales.txt', steps=10, lr=.01, seeds=2, workers=2, study='tales')
    scheduler = os.environ.get('FAULT_SCHEDULER', '')
    raise SystemExit(failures(sweep(study, ['norm'], scheduler)) or None)"""]
SEEDS = dict(baseline=range(6), layernorm=range(2), no_norm=range(2), again=range(2_000, 2_002))
RUNS = {(variant, seed) for variant, seeds in SEEDS.items() for seed in seeds}

# Every Python that is started below a test runs this first. It keeps a list of the records that were
# written, and does what the test asks for at the moment when a certain file is about to appear: no test
# depends on how fast a machine is.
FAULT = '''
import os, signal, sys, time

def strike(what):
    if what == 'kill this': os.kill(os.getpid(), signal.SIGKILL)
    if what == 'kill the program': os.kill(int(open(HOME + '/pid').read()), signal.SIGKILL)
    if what == 'ctrl-c': os.killpg(int(open(HOME + '/pid').read()), signal.SIGINT)
    time.sleep(300) # it is over for this process, too

def watch(event, args):
    if event not in ('os.rename', 'open') or not isinstance(args[0], (str, os.PathLike)): return
    path = str(args[1] if event == 'os.rename' else args[0])
    if event == 'os.rename' and path.endswith('record.json'):
        os.write(LOG, (path + chr(10)).encode())
    if FILE and FILE in path and path.endswith(KIND) and (EVERY or once()): strike(WHAT)

def once():
    try: os.close(os.open(HOME + '/struck', os.O_CREAT | os.O_EXCL))
    except FileExistsError: return False
    return True

HOME = os.environ['FAULT_HOME']
LOG = os.open(HOME + '/log', os.O_CREAT | os.O_APPEND | os.O_WRONLY)
WHAT, FILE, KIND, EVERY = (os.environ.get('FAULT_' + name, '') for name in 'WHAT FILE KIND EVERY'.split())
sys.addaudithook(watch)
'''

@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "A repository with the notebooks, a small corpus, and a study that nothing has disturbed."
    root = tmp_path_factory.mktemp('prepared')
    shutil.copy(ROOT/'settings.ini', root)
    shutil.copytree(ROOT/'ablations', root/'ablations')
    (root/'tales.txt').write_text('\n'.join(grammar_stories(700, seed=1)))
    done = said(ablate(root))
    assert len(load_records(root/'results/tales')) == len(RUNS), done
    return root

@pytest.fixture
def repo(prepared, tmp_path, monkeypatch):
    "The same repository with nothing run yet."
    shutil.copytree(prepared, tmp_path/'repo', ignore=shutil.ignore_patterns('results', 'figures'))
    monkeypatch.chdir(tmp_path/'repo')
    return tmp_path/'repo'

@pytest.fixture
def finished(prepared, repo):
    "The same repository with all runs on record."
    shutil.copytree(prepared/'results', repo/'results')
    return repo

def ablate(root, *args, **fault):
    "piny_ablate, with something to happen to it."
    return start(root, [*ABLATE, *(args or TALES)], **fault)

def sweep(root, **fault):
    "The runs of piny_ablate alone, with something to happen to them."
    return start(root, SWEEP, **fault)

def start(root, words, **fault):
    "A program in a session of its own, as a terminal has it."
    home = root.parent/f'{root.name}-fault'
    home.mkdir(exist_ok=True)
    (home/'sitecustomize.py').write_text(FAULT)
    (home/'struck').unlink(missing_ok=True)
    faults = {f'FAULT_{name.upper()}': value for name, value in fault.items()}
    env = dict(os.environ, PYTHONPATH=str(home), FAULT_HOME=str(home), **faults)
    program = subprocess.Popen(words, cwd=root, env=env, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    (home/'pid').write_text(str(program.pid))
    return program

def written(root):
    "The runs whose records were written, by variant and seed, each as often as it was."
    lines = (root.parent/f'{root.name}-fault/log').read_text().split()
    return sorted(Path(line).parent.name.rsplit('-', 1)[0] for line in lines)

def records(root):
    "What the runs found out: records with their metrics, and the loss of each story."
    folder = root/'results/tales'
    found = {}
    for r in load_records(folder):
        run = r['variant'], r['seed']
        stories = folder/f"{run[0]}-{run[1]}-{r['key']}/stories.npy"
        found[run] = {k: v for k, v in r.items() if k not in MEASURED} | dict(stories=stories.read_bytes())
    return found

def said(program):
    "The exit code, and what was said on the standard error besides the progress bar."
    _, err = program.communicate(timeout=300)
    return program.returncode, [line for line in map(str.strip, err.splitlines()) if line and 'tok/s' not in line]


# -- what papermill would pass over in silence

def run_notebook(name, **parameters):
    papermill.execute_notebook(name, 'out.ipynb', parameters, progress_bar=False)

def test_papermill_with_a_bad_parameter(repo):
    says = "unknown parameter 'sedes', did you mean 'seeds'"
    with pytest.raises(PapermillExecutionError, match=says):
        run_notebook('ablations/norm.ipynb', sedes=5)
    assert not (repo/'results').exists()

def test_papermill_without_the_tag(repo):
    notebook = json.loads(Path('ablations/norm.ipynb').read_text())
    for cell in notebook['cells']: cell['metadata'].pop('tags', None)
    Path('untagged.ipynb').write_text(json.dumps(notebook))
    with pytest.raises(PapermillExecutionError, match='has lost its tag'):
        run_notebook('untagged.ipynb', preset='small')


# -- from the beginning to the end

def test_an_undisturbed_study(prepared):
    assert set(records(prepared)) == RUNS
    assert sorted(written(prepared)) == sorted(f'{variant}-{seed}' for variant, seed in RUNS)
    drawn = {p.name for p in (prepared/'figures/tales').iterdir()}
    assert drawn == {f'{name}.{kind}' for name in ('norm', 'overview') for kind in ('svg', 'png')}
    assert not list(prepared.glob('results/tales/claims/*'))
    assert 'cannot tell apart' in (prepared/'results/tales/notebooks/norm.ipynb').read_text()


# -- interrupted and continued

def workers_of(root):
    "The processes that work in a repository."
    home = str(root.parent/f'{root.name}-fault')
    for process in psutil.process_iter():
        try:
            if process.environ().get('FAULT_HOME') == home: yield process
        except psutil.Error: pass # it has ended, or is another's

def ended(root):
    "Whether nothing works in a repository any more, or soon."
    return not psutil.wait_procs(list(workers_of(root)), timeout=60)[1]

def test_the_program_is_killed(repo, prepared):
    code, _ = said(sweep(repo, what='kill the program', file='layernorm', kind='record.json'))
    assert code == -signal.SIGKILL
    assert ended(repo), 'workers end with the program'
    def times(paths): return {path: path.stat().st_mtime_ns for path in paths}
    finished = times(repo.glob('results/tales/*/record.json'))
    assert len(finished) < len(RUNS)
    assert said(sweep(repo)) == (0, [])
    assert times(finished) == finished, 'what was finished is not run again'
    assert records(repo) == records(prepared), 'as if it had never been killed'

SENTENCE = ('piny_ablate: interrupted: finished runs are kept, '
            'and the same command goes on with those that are missing')

def test_ctrl_c_among_the_runs(repo):
    program = ablate(repo, what='ctrl-c', file='layernorm-0', kind='record.json')
    assert said(program) == (130, [SENTENCE])
    assert ended(repo), "nothing goes on behind one's back"

def test_ctrl_c_in_a_notebook(finished):
    program = ablate(finished, what='ctrl-c', file='figures/tales', kind='.svg')
    assert said(program) == (130, [SENTENCE])
    assert ended(finished), "nothing goes on behind one's back"


# -- several at once

def test_two_programs_share_a_study(repo, prepared):
    both = [sweep(repo), sweep(repo)]
    assert [said(program) for program in both] == [(0, []), (0, [])]
    assert written(repo) == written(prepared), 'every run is made once'
    assert records(repo) == records(prepared)

def test_a_study_with_other_settings_is_refused(finished):
    code, lines = said(ablate(finished, *TALES, '--lr', '0.5', '--seeds', '3'))
    assert code == 2 and 'was made with --lr 0.01, and now --lr is 0.5' in lines[-1]
    assert written(finished) == [], 'nothing is trained'


# -- workers that are killed

def test_a_killed_worker(repo, prepared):
    code, lines = said(sweep(repo, what='kill this', file='layernorm-0', kind='record.json'))
    assert code == 0, lines
    assert 'SIGKILL in the middle of layernorm-0' in lines[0] and 'memory' in lines[0]
    assert records(repo) == records(prepared), 'its run was made again'

def test_a_run_that_kills_every_worker(finished, prepared):
    lost, = finished.glob('results/tales/layernorm-0-*')
    shutil.rmtree(lost)
    program = sweep(finished, what='kill this', file='layernorm-0', kind='record.json', every='yes')
    code, lines = said(program)
    assert code == 1
    killed = [line for line in lines if 'SIGKILL in the middle of layernorm-0' in line]
    assert len(killed) == 4, 'three times, and in the report'
    assert f'{lost} failed:' in lines, 'where it is'


# -- workers from elsewhere

def test_a_worker_joins_by_the_name_of_the_study(repo, prepared):
    said(sweep(repo, what='kill the program', file='layernorm', kind='record.json'))
    assert ended(repo)
    code, lines = said(ablate(repo, '--worker', 'tales'))
    assert (code, lines) == (0, [])
    assert records(repo) == records(prepared), 'it makes what is missing'

def test_a_study_that_nobody_has_begun(repo):
    code, lines = said(ablate(repo, '--worker', 'tails'))
    assert code == 2 and "no study 'tails' was begun here" in lines[-1]

@pytest.fixture
def cluster(repo):
    "The address of a dask scheduler with two workers, one of which dies before its first record."
    address = f'tcp://127.0.0.1:{free_port()}'
    dask = [sys.executable, '-m', 'distributed.cli.dask_scheduler', '--no-dashboard', '--no-show']
    host, port = address.removeprefix('tcp://').split(':')
    running = [start(repo, [*dask, '--host', host, '--port', port])]
    hand = [sys.executable, '-m', 'distributed.cli.dask_worker', address, '--no-nanny', '--no-dashboard',
            '--nthreads', '1', '--host', host]
    running += [start(repo, hand, what='kill this', file='-0-', kind='record.json'), start(repo, hand)]
    yield address
    for program in running:
        program.kill()
        program.communicate()

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def test_a_cluster_one_of_whose_workers_dies(repo, prepared, cluster):
    code, lines = said(sweep(repo, scheduler=cluster))
    assert code == 0, lines
    assert (repo.parent/'repo-fault/struck').exists(), 'one was killed'
    assert records(repo) == records(prepared), 'the other makes its run again'


# -- commands typed wrong

@pytest.mark.parametrize('args, says', [
    (['postion'], "unknown question 'postion', did you mean 'position'?"),
    (['--sedes', '3'], "unknown option '--sedes', did you mean '--seeds'?"),
    (['--corpus', 'empty.txt'], 'empty.txt'),
    (['--corpus', 'short.txt'], 'short.txt'),
    (['--corpus', 'tales.txt', '--preset', 'piny'], 'vocab_size')])
def test_a_bad_command(repo, args, says):
    (repo/'empty.txt').write_text('')
    (repo/'short.txt').write_text('One day.\nTwo days.\n')
    code, lines = said(ablate(repo, *args))
    assert code == 2 and len(lines) == 1 and says in lines[0], lines
