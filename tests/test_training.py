"Training as it is really run: by piny_train and torchrun, in processes that are killed, and on disks that fail."
import json, multiprocessing, os, pty, random, resource, signal, subprocess, sys, tempfile, time
from contextlib import redirect_stderr
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file
from piny.checkpoint import checkpoints, newest_good, read_state
from piny.config import ModelConfig, TrainConfig
from piny.data import Dataset, prepare
from piny.machine import loss_scaler
from piny.grammar import grammar_stories
from piny.loop import Progress, train
from piny.model import Transformer
from piny.optimizer import make_optimizer
from piny.record import read_record

HERE = Path(__file__).resolve().parent
TRAIN = ['-m', 'piny.commands.train']
TORCHRUN = ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone']
RANKS = [*TORCHRUN, *TRAIN]
SHAPE = ('--vocab-size 400 --dim 32 --n-layers 1 --n-heads 2 --n-kv-heads 1 --hidden-dim 64 '
         '--max-seq-len 64 --precision fp32 --compile no').split()
BUDGET = '--batch-size 8 --lr 1e-2 --warmup 5'.split()
ENDLESS = ['--steps', '1000000000']  # no machine is fast enough to end such a run
ENV = os.environ | dict(OMP_NUM_THREADS='1')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    stories = list(grammar_stories(400, seed=0))
    return str(prepare(stories[20:], stories[:20], 400, tmp_path_factory.mktemp('data')).folder)


def start(*args, how=TRAIN, **options):
    "A process that writes what it says into a pipe."
    command = [sys.executable, *how, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV, **options)


def finish(process):
    "Exit code and all that was said."
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


def call(*args, how=TRAIN, **options): return finish(start(*args, how=how, **options))


def said_until(process, word):
    "What a process says, to the line with `word`."
    said = ''
    for line in process.stdout:
        said += line
        if word in line: return said
    raise AssertionError(f'it ended without {word!r}: {said}')


def script(path, changes):
    "A program that is piny_train with something changed."
    path.write_text(f'''import os, signal, sys
import piny.loop, piny.machine, piny.commands.train
from torch.distributed.elastic.multiprocessing import errors
rank = os.environ.get('RANK')
{changes}
if __name__ == '__main__': errors.record(piny.commands.train.main)()
''')
    return str(path)


AT_STEP_3 = '''
lr_at = piny.loop.lr_at # asked for at the beginning of each step
def changed(step, cfg):
    if step == 3: {}
    return lr_at(step, cfg)
piny.loop.lr_at = changed
'''


def weights(run): return load_file(checkpoints(run)[0]/'model.safetensors')


def metrics(run): return read_record(run)['metrics']


def furthest(a, b): return max((a[k] - b[k]).abs().max().item() for k in a.keys() | b.keys())


def wait_for(condition, process):
    "Until something is so, or the process that was to do it has ended."
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(.02)


# -- ranks

def test_two_ranks_are_one(data, tmp_path):
    "Two ranks find what one finds, also with dropout, in pieces of any size; and they share the evaluation."
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '12', '--eval-every', '6', '--dropout', '.1']
    for out, how, more in (('one', TRAIN, ['--micro-batch', '3']), ('two', RANKS, [])):
        code, said = call(*args, *more, '--out', tmp_path/out, how=how)
        assert code == 0, said
    assert furthest(weights(tmp_path/'one'), weights(tmp_path/'two')) < 1e-6
    assert read_record(tmp_path/'two')['ranks'] == 2
    for one, two in zip(metrics(tmp_path/'one'), metrics(tmp_path/'two'), strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def test_another_number_of_ranks(data, tmp_path):
    "Begun by two ranks and ended by one: as if one had done it all."
    args = ['--data', data, *SHAPE, *BUDGET, '--decay-steps', '12', '--eval-every', '6', '--lr', '1e-3']
    assert call(*args, '--steps', '24', '--out', tmp_path/'straight')[0] == 0
    assert call(*args, '--steps', '12', '--out', tmp_path/'cut', how=RANKS)[0] == 0
    code, said = call('--resume', tmp_path/'cut', '--steps', '24')
    assert code == 0 and 'going on from step 12' in said, said
    assert furthest(weights(tmp_path/'straight'), weights(tmp_path/'cut')) < 1e-5


def test_sigterm_to_two_ranks(data, tmp_path):
    "Both stop after the same step, and one saves."
    process = start('--data', data, *SHAPE, *BUDGET, *ENDLESS, '--save-every', '10', '--out', tmp_path/'run', how=RANKS)
    wait_for(lambda: checkpoints(tmp_path/'run'), process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code != 0 and said.count('to go on: piny_train --resume') == 1, said
    assert read_state(checkpoints(tmp_path/'run')[0])['step'] >= 10


def test_a_rank_that_fails_ends_all(data, tmp_path):
    changes = AT_STEP_3.format('if rank == "1": raise RuntimeError("rank 1 has lost its marbles")')
    code, said = call('--data', data, *SHAPE, *BUDGET, *ENDLESS, '--out', tmp_path/'run',
                      how=[*TORCHRUN, script(tmp_path/'failing.py', changes)])
    assert code != 0 and 'rank 1 has lost its marbles' in said, said


@pytest.mark.parametrize('stalled', [0, 1])
def test_a_rank_that_stalls_is_named(data, tmp_path, stalled):
    "The others wait for the stated time, then say who does not answer, and end."
    changes = AT_STEP_3.format(f'rank == "{stalled}" and (print("stalled as", os.getpid(), flush=True), '
                               f'os.kill(os.getpid(), signal.SIGSTOP))')
    process = start('--data', data, *SHAPE, *BUDGET, *ENDLESS, '--out', tmp_path/'run', '--rank-timeout', '20',
                    how=[*TORCHRUN, script(tmp_path/'stalling.py', changes)])
    pid = int(said_until(process, 'stalled as').split()[-1])
    try: said_until(process, f'piny_train: rank {stalled} did not answer for 20 seconds')
    finally: os.kill(pid, signal.SIGKILL)  # or torchrun waits half a minute for it
    assert finish(process)[0] != 0


def test_ranks_with_other_data_are_refused(data, tmp_path):
    "All ranks end before the first step, and the first says what differs, and where."
    stories = list(grammar_stories(400, seed=1))
    other = prepare(stories[20:], stories[:20], 400, tmp_path/'data').folder
    changes = f'if rank == "1": sys.argv[sys.argv.index("--data") + 1] = {str(other)!r}'
    code, said = call('--data', data, *SHAPE, *BUDGET, '--steps', '12', '--out', tmp_path/'run',
                      how=[*TORCHRUN, script(tmp_path/'other.py', changes)])
    assert code != 0 and said.count('piny_train: the ranks do not see the same data.train') == 1, said
    assert 'on rank 0' in said and 'on rank 1' in said and not checkpoints(tmp_path/'run')


@pytest.mark.parametrize('option, value, name', [('--lr', '2e-2', 'train.lr'), ('--precision', 'bf16', 'decided.precision')])
def test_ranks_with_other_settings_are_refused(data, tmp_path, option, value, name):
    changes = f'if rank == "1": sys.argv += [{option!r}, {value!r}]'
    code, said = call('--data', data, *SHAPE, *BUDGET, '--steps', '12', '--out', tmp_path/'run',
                      how=[*TORCHRUN, script(tmp_path/'other.py', changes)])
    assert code != 0 and said.count(f'piny_train: the ranks do not see the same {name}') == 1, said


def test_ranks_with_folders_of_their_own_are_refused(data, tmp_path):
    "As on machines whose disks are not shared, where each would find checkpoints of its own."
    changes = 'sys.argv[sys.argv.index("--out") + 1] += rank'
    code, said = call('--data', data, *SHAPE, *BUDGET, '--steps', '12', '--out', tmp_path/'run',
                      how=[*TORCHRUN, script(tmp_path/'local.py', changes)])
    assert code != 0 and 'has to be on a disk that all ranks see' in said, said
    assert not checkpoints(tmp_path/'run0') and not checkpoints(tmp_path/'run1')


def test_a_rank_without_data_ends_all(data, tmp_path):
    changes = f'if rank == "1": sys.argv[sys.argv.index("--data") + 1] = {str(tmp_path)!r}'
    code, said = call('--data', data, *SHAPE, *BUDGET, *ENDLESS, '--out', tmp_path/'run',
                      how=[*TORCHRUN, script(tmp_path/'other.py', changes)])
    assert code != 0 and 'has no meta.json' in said, said


@pytest.mark.parametrize('option, sentence', [
    ('--batch-size=7', 'piny_train: --batch-size 7 does not divide among 2 ranks'),
    ('--bach-size=8', "piny_train: unknown option '--bach-size', did you mean '--batch-size'?")])
def test_what_is_wrong_on_all_ranks_is_said_once(data, tmp_path, option, sentence):
    code, said = call('--data', data, *SHAPE, option, '--out', tmp_path/'run', how=RANKS)
    assert code != 0 and said.count(sentence) == 1, said
    assert not (tmp_path/'run').exists()


# -- two at once

def test_two_trainings_in_one_folder(data, tmp_path):
    "The second is refused with the name of the first, which goes on undisturbed."
    args = ['--data', data, *SHAPE, *BUDGET, '--out', tmp_path/'run']
    first = start(*args, *ENDLESS, '--save-every', '10')
    wait_for(lambda: checkpoints(tmp_path/'run'), first)
    for second in (args, ['--resume', tmp_path/'run']):
        code, said = call(*second)
        assert code == 2 and f'is in use by process {first.pid} on ' in said and 'since 20' in said, said
    first.send_signal(signal.SIGTERM)
    code, said = finish(first)
    assert code == 128 + signal.SIGTERM and 'Traceback' not in said, said


def test_a_killed_training_holds_no_lock(data, tmp_path):
    args = ['--data', data, *SHAPE, *BUDGET, '--out', tmp_path/'run']
    first = start(*args, '--decay-steps', '20', *ENDLESS, '--save-every', '10')
    wait_for(lambda: checkpoints(tmp_path/'run'), first)
    first.kill()
    first.wait()
    step = read_state(checkpoints(tmp_path/'run')[0])['step']
    code, said = call('--resume', tmp_path/'run', '--steps', step + 3)
    assert code == 0 and f'finished after {step + 3:,} steps' in said, said


# -- interrupted

def child(args, log, kill_at):
    "`piny_train` in a process that kills itself before it takes step `kill_at`; None: it lives."
    torch.set_num_threads(1)
    import piny.loop
    from piny.commands.train import main
    lr_at = piny.loop.lr_at  # asked for once at the beginning of each step

    def mortal_lr_at(step, cfg):
        if step == kill_at: os.kill(os.getpid(), signal.SIGKILL)
        return lr_at(step, cfg)
    piny.loop.lr_at = mortal_lr_at
    with open(log, 'a') as f, redirect_stderr(f): main(args)


def test_sigkill_at_random_steps(data, tmp_path):
    """Killed twenty times, with its newest checkpoint cut in half once, and resumed each time: the same weights,
    averages and metrics as undisturbed."""
    ctx = multiprocessing.get_context('forkserver')  # imports torch once, for all of them
    ctx.set_forkserver_preload(['piny.run', 'piny.display', 'torch._dynamo'])
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '420', '--eval-every', '140', '--dropout', '.1',
            '--save-every', '7']
    log = tmp_path/'log'

    def run(out, kill_at=None):
        process = ctx.Process(target=child, args=([*args, '--out', str(tmp_path/out)], log, kill_at))
        process.start()
        process.join()
        return process.exitcode
    assert run('straight') == 0, log.read_text()

    chance, begun = random.Random(0), 0
    for kill in range(20):
        killed_at = begun + chance.randint(8, 20)  # past the next checkpoint
        assert run('cut', killed_at) == -signal.SIGKILL, log.read_text()
        newest, state = newest_good(tmp_path/'cut', say=lambda text: None)
        begun = state['step']
        assert killed_at - 7 <= begun <= killed_at, 'no more is lost than the steps since the last checkpoint'
        if kill == 10:
            path = newest/'optimizer.safetensors'
            path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
            begun = newest_good(tmp_path/'cut', say=lambda text: None)[1]['step']
    assert run('cut') == 0
    said = log.read_text()
    assert 'optimizer.safetensors is damaged: passed over' in said, said[-2000:]
    for name in ('model.safetensors', 'optimizer.safetensors'):
        cut, straight = ((checkpoints(tmp_path/run)[0]/name).read_bytes() for run in ('cut', 'straight'))
        assert cut == straight
    assert metrics(tmp_path/'cut') == metrics(tmp_path/'straight')
    assert not list((tmp_path/'cut').glob('.step*')), 'what a killed one left is cleared away'


def test_sigterm_saves(data, tmp_path):
    process = start('--data', data, *SHAPE, *BUDGET, *ENDLESS, '--eval-every', '50', '--out', tmp_path/'run')
    wait_for(lambda: checkpoints(tmp_path/'run'), process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 128 + signal.SIGTERM and 'Traceback' not in said, said
    assert f'to go on: piny_train --resume {tmp_path/"run"}' in said, said
    assert read_state(checkpoints(tmp_path/'run')[0])['step'] >= 50


def test_a_full_disk(data, tmp_path):
    "A checkpoint that does not fit ends the run with a sentence; the one before it stays, and with room it goes on."
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '20', '--eval-every', '20', '--decay-steps', '20']

    def limited(): # the weights fit, the optimiser does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    code, said = call(*args, '--out', tmp_path/'run')
    assert code == 0, said
    code, said = call('--resume', tmp_path/'run', '--steps', '40', preexec_fn=limited)
    assert code == 1 and 'File too large' in said and 'Traceback' not in said, said
    assert [p.name for p in checkpoints(tmp_path/'run')] == ['step-00000020']
    assert not list((tmp_path/'run').glob('.step*'))
    assert read_record(tmp_path/'run')['steps'] == 20, 'the record of the shorter run stays'
    code, said = call('--resume', tmp_path/'run', '--steps', '40')
    assert code == 0 and 'going on from step 20' in said, said
    assert read_record(tmp_path/'run')['steps'] == 40


def test_a_gradient_that_is_no_number_ruins_no_checkpoint(data, tmp_path):
    "The run ends as diverged at that step, with the checkpoint before it, and goes on when the cause is gone."
    changes = '''
add_gradients = piny.loop.add_gradients
def changed(loss_of, scaler, cfg, x, y, step, *args):
    loss = add_gradients(loss_of, scaler, cfg, x, y, step, *args)
    if step == 8: loss_of.model.norm.weight.grad[0] = float('nan')
    return loss
piny.loop.add_gradients = changed
'''
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '20', '--eval-every', '20', '--save-every', '2']
    spoiled = [script(tmp_path/'spoiled.py', changes)]
    code, said = call(*args, '--keep', '1', '--out', tmp_path/'run', how=spoiled)
    assert code == 1 and 'diverged after 8 steps: the gradient of step 9 is not finite' in said, said
    assert all(torch.isfinite(w).all() for w in weights(tmp_path/'run').values())
    assert read_record(tmp_path/'run')['status'] == 'diverged'
    code, said = call('--resume', tmp_path/'run')
    assert code == 0 and 'going on from step 8' in said, said
    assert call(*args, '--out', tmp_path/'straight')[0] == 0
    assert furthest(weights(tmp_path/'run'), weights(tmp_path/'straight')) == 0


# -- what is shown

def test_a_terminal_that_reports_no_width(data, tmp_path):
    "The bar is there, and lines of evaluations stay."
    ours, theirs = pty.openpty()  # it has zero columns until it is told otherwise
    process = subprocess.Popen([sys.executable, *TRAIN, '--data', data, *SHAPE, *BUDGET, '--steps', '20',
                                '--eval-every', '10', '--out', str(tmp_path/'run')], stderr=theirs, env=ENV)
    os.close(theirs)
    said = b''
    while True:
        try: more = os.read(ours, 10_000)
        except OSError: break  # it has ended
        if not more: break
        said += more
    assert process.wait() == 0
    assert b'100%|' in said and b'step 20, loss' in said, said
    assert b'step 10: training loss' in said, said


# -- what training should find

GOLDEN = ModelConfig(vocab_size=1_024, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=176, max_seq_len=128)
GOLDEN_TRAINING = TrainConfig(steps=20, batch_size=8, lr=1e-2, warmup=80, eval_every=20, precision='fp32', compile='no')


def losses_of(model_cfg, cfg, data):
    "The loss of each step."
    model = Transformer(model_cfg)
    at = Progress()
    losses = []
    scaler = loss_scaler(torch.device('cpu'), cfg.precision)
    for _ in train(model, make_optimizer(model, cfg), scaler, cfg, data, at): losses.append(at.loss)
    return losses


def curve():
    "The losses of the first 20 steps of a small model on 1,000 built-in stories."
    stories = list(grammar_stories(1_020, seed=0))
    with tempfile.TemporaryDirectory() as tmp:
        data = prepare(stories[20:], stories[:20], GOLDEN.vocab_size, tmp)
        return losses_of(GOLDEN, GOLDEN_TRAINING, data)


def test_the_golden_curve():
    golden = json.loads((HERE/'golden.json').read_text())
    assert curve() == pytest.approx(golden, rel=1e-4)


def test_compiled_training(data):
    "A compiled model learns what the plain one learns."
    model_cfg = ModelConfig(vocab_size=400, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=16, max_seq_len=32)
    losses = {}
    for how in ('no', 'yes'):
        torch.compiler.reset()
        cfg = TrainConfig(steps=5, batch_size=4, micro_batch=3, eval_every=5, precision='fp32', compile=how)
        losses[how] = losses_of(model_cfg, cfg, Dataset.open(data))
    assert losses['yes'] == pytest.approx(losses['no'], abs=1e-4)


if __name__ == '__main__':  # python tests/test_training.py: a new golden curve
    (HERE/'golden.json').write_text(json.dumps(curve(), indent=1) + '\n')
