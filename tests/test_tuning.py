"A search whose processes are killed: nothing is lost, nothing is made twice, and several share it."
import json, os, signal, subprocess, sys, time
from pathlib import Path

from piny.data import prepare
from piny.grammar import grammar_stories
from piny.search import Search, distribution

ROOT = Path(__file__).resolve().parent.parent
RANGES = dict(lr=distribution('lr', '1e-4:1e-1:log', float), decay=distribution('decay', '1e-3:10:log', float))
FIRST = dict(lr=3e-2, decay=1.)

# a process that makes trials of a loss whose optimum is 1, each of which takes a moment
WORKER = f"""
import math, optuna, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT/'tests')!r})
from test_tuning import FIRST, RANGES
from piny.search import Search, search
optuna.logging.set_verbosity(optuna.logging.ERROR)
folder, trials, seconds = sys.argv[1:]
def loss(trial):
    (Path(folder)/'made').open('a').write(f'{{trial.number}}\\n')
    time.sleep(float(seconds))
    return 1 + math.log10(trial.params['lr']/3e-3)**2 + .2*math.log10(trial.params['decay']/.1)**2
search(Search(Path(folder), RANGES, FIRST), loss, int(trials))
"""


def worker(folder, trials, seconds):
    "A process that works at a search."
    return subprocess.Popen([sys.executable, '-c', WORKER, folder, str(trials), str(seconds)], cwd=ROOT)

def made(folder):
    "The numbers of the trials that were begun, in their order."
    path = folder/'made'
    return [int(line) for line in path.read_text().split()] if path.exists() else []

def wait_for(n, folder):
    "Wait until so many trials were begun."
    deadline = time.monotonic() + 300
    while len(made(folder)) < n:
        assert time.monotonic() < deadline, 'no trial was begun'
        time.sleep(.05)


def test_two_share_a_search(tmp_path):
    two = [worker(tmp_path, 16, .02) for _ in range(2)]
    assert [process.wait(300) for process in two] == [0, 0]
    trials = Search(tmp_path, RANGES, FIRST).trials()
    assert sorted(made(tmp_path)) == list(range(16))
    assert [trial.state.name for trial in trials] == ['COMPLETE'] * 16
    assert len({trial.params['lr'] for trial in trials}) == 16


def test_what_a_killed_process_tried_is_tried_again(tmp_path):
    first = worker(tmp_path, 2, 60)
    wait_for(1, tmp_path)
    first.kill()
    first.wait()
    assert worker(tmp_path, 2, 0).wait(300) == 0
    trials = Search(tmp_path, RANGES, FIRST).trials()
    assert [trial.state.name for trial in trials] == ['FAIL', 'COMPLETE', 'COMPLETE']
    assert trials[1].params == FIRST


def test_the_others_trial_is_left_alone_while_it_lives(tmp_path):
    slow = worker(tmp_path, 2, 60)
    wait_for(1, tmp_path)
    fast = worker(tmp_path, 2, 0)
    wait_for(2, tmp_path)
    assert [trial.number for trial in Search(tmp_path, RANGES, FIRST).trials()] == [0, 1]
    slow.kill()  # and the other one, which waits, makes what it left
    slow.wait()
    assert fast.wait(300) == 0
    assert made(tmp_path) == [0, 1, 2]


# -- the command

SIZE = dict(vocab_size=320, dim=32, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=64, max_seq_len=64)
TRAIN = dict(steps=200, batch_size=8, lr=1e-2, warmup=10, precision='fp32', compile='no')


def lines(path): return [json.loads(line) for line in path.read_text().splitlines()]


def test_ctrl_c_leaves_all_resumable(tmp_path):
    (tmp_path/'settings.ini').write_text('[DEFAULT]\n')
    (tmp_path/'tiny.json').write_text(json.dumps(dict(model=SIZE, train=TRAIN)))
    prepare(list(grammar_stories(400, seed=1)), list(grammar_stories(40, seed=2)), 320, tmp_path/'data', 'tales')
    words = '--preset tiny.json --data tales --trials 3 --search lr=1e-3:1e-1:log --fresh-seeds 2 --workers 2'
    command = [sys.executable, '-m', 'piny.commands.tune', *words.split()]
    folder = tmp_path/'results'/'tune-tiny'
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as first:
        deadline = time.monotonic() + 300
        while not list(folder.glob('runs/*/metrics.jsonl')):  # half time of a trial
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(.05)
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
        said = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert 'the same command goes on' in said and 'Traceback' not in said
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'going on from step' in done.stderr
    trials = lines(folder/'trials.jsonl')
    assert len(trials) == 3 and 1e-2 in {trial['lr'] for trial in trials}  # what was interrupted is tried again
    assert len(lines(folder/'checks.jsonl')) == 4
    assert 'the preset is in' in done.stdout and (folder/'tiny-tuned.json').exists()
