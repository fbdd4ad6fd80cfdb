"Training as it is really run: by piny_train and torchrun, in processes that are killed, and on disks that fail."
import json, multiprocessing, os, random, resource, signal, subprocess, sys, time
from contextlib import redirect_stderr
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file
from piny.checkpoint import checkpoints, newest_good, read_state
from piny.config import PRESETS, ModelConfig, TrainConfig
from piny.data import prepare
from piny.machine import loss_scaler
from piny.grammar import grammar_stories
from piny.loop import Progress, train
from piny.model import Transformer
from piny.optimizer import make_optimizer
from piny.record import read_record

HERE = Path(__file__).resolve().parent
TRAIN, RANKS = ['-m', 'piny.commands.train'], ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone', '-m', 'piny.commands.train']
SHAPE = '--vocab-size 400 --dim 32 --n-layers 1 --n-heads 2 --n-kv-heads 1 --hidden-dim 64 --max-seq-len 64 --precision fp32 --compile no'.split()
BUDGET = '--batch-size 8 --lr 1e-2 --warmup 5'.split()
ENV = os.environ | dict(OMP_NUM_THREADS='1')

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    stories = list(grammar_stories(400, seed=0))
    return str(prepare(stories[20:], stories[:20], 400, tmp_path_factory.mktemp('data')).folder)

def start(*args, how=TRAIN): return subprocess.Popen([sys.executable, *how, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV)
def finish(process):
    out = process.communicate(timeout=200)[0]
    return process.returncode, out
def call(*args, how=TRAIN): return finish(start(*args, how=how))
def weights(run): return load_file(checkpoints(run)[0]/'model.safetensors')
def metrics(run): return read_record(run)['metrics']
def furthest(a, b): return max((a[k] - b[k]).abs().max().item() for k in a.keys() | b.keys())
def wait_for(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(.02)


# -- ranks

def test_two_ranks_are_one(data, tmp_path):
    "Two ranks find what one finds that takes the same rows in two pieces, also with dropout; and share the evaluation."
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '12', '--eval-every', '6', '--dropout', '.1']
    for out, how, more in (('one', TRAIN, ['--micro-batch', '4']), ('two', RANKS, [])):
        code, said = call(*args, *more, '--out', tmp_path/out, how=how)
        assert code == 0, said
    assert furthest(weights(tmp_path/'one'), weights(tmp_path/'two')) < 1e-6
    assert read_record(tmp_path/'two')['ranks'] == 2
    for one, two in zip(metrics(tmp_path/'one'), metrics(tmp_path/'two'), strict=True): assert one == pytest.approx(two, abs=1e-5)

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
    process = start('--data', data, *SHAPE, *BUDGET, '--steps', '100000', '--save-every', '10', '--out', tmp_path/'run', how=RANKS)
    wait_for(lambda: checkpoints(tmp_path/'run'))
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code != 0 and said.count('to go on: piny_train --resume') == 1, said
    assert read_state(checkpoints(tmp_path/'run')[0])['step'] >= 10

def test_a_rank_that_fails_ends_all(data, tmp_path):
    failing = tmp_path/'failing.py'
    failing.write_text('import os, piny.loop, piny.commands.train\nfrom torch.distributed.elastic.multiprocessing import errors\n'
                       'def lr_at(step, cfg):\n    if step == 3 and os.environ["RANK"] == "1": raise RuntimeError("rank 1 has lost its marbles")\n    return 1e-3\n'
                       'piny.loop.lr_at = lr_at\nif __name__ == "__main__": errors.record(piny.commands.train.main)()\n')
    began = time.time()
    code, said = call('--data', data, *SHAPE, *BUDGET, '--steps', '100000', '--out', tmp_path/'run', how=[*RANKS[:-2], str(failing)])
    assert code != 0 and 'rank 1 has lost its marbles' in said and time.time() - began < 90

def test_a_batch_that_cannot_be_shared(data, tmp_path):
    code, said = call('--data', data, *SHAPE, '--batch-size', '7', '--out', tmp_path/'run', how=RANKS)
    assert code != 0 and said.count('piny_train: batch_size 7 does not divide among 2 ranks') == 1 and not (tmp_path/'run').exists()


# -- interrupted

def child(args, log, kill_at):
    "`piny_train` in a process that kills itself before it takes step `kill_at`; None: it lives."
    torch.set_num_threads(1)
    import piny.loop
    from piny.commands.train import main
    lr_at = piny.loop.lr_at # asked for once at the beginning of each step
    def mortal_lr_at(step, cfg):
        if step == kill_at: os.kill(os.getpid(), signal.SIGKILL)
        return lr_at(step, cfg)
    piny.loop.lr_at = mortal_lr_at
    with open(log, 'a') as f, redirect_stderr(f): main(args)

def test_sigkill_at_random_steps(data, tmp_path):
    "Killed twenty times, with its newest checkpoint cut in half once, and resumed each time: the same weights, averages and metrics as undisturbed."
    ctx = multiprocessing.get_context('forkserver') # imports torch once, for all of them
    ctx.set_forkserver_preload(['piny.commands.train', 'torch._dynamo'])
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '420', '--eval-every', '140', '--dropout', '.1', '--save-every', '7']
    def run(out, kill_at=None):
        process = ctx.Process(target=child, args=([*args, '--out', str(tmp_path/out)], tmp_path/'log', kill_at))
        process.start()
        process.join(200)
        return process.exitcode
    assert run('straight') == 0, (tmp_path/'log').read_text()

    chance, begun = random.Random(0), 0
    for kill in range(20):
        killed_at = begun + chance.randint(8, 20) # past the next checkpoint
        assert run('cut', killed_at) == -signal.SIGKILL, (tmp_path/'log').read_text()
        newest, state = newest_good(tmp_path/'cut', say=lambda text: None)
        begun = state['step']
        assert killed_at - 7 <= begun <= killed_at, 'no more is lost than the steps since the last checkpoint'
        if kill == 10:
            path = newest/'optimizer.safetensors'
            path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
            begun = newest_good(tmp_path/'cut', say=lambda text: None)[1]['step']
    assert run('cut') == 0
    said = (tmp_path/'log').read_text()
    assert 'optimizer.safetensors is damaged: passed over' in said, said[-2000:]
    for name in ('model.safetensors', 'optimizer.safetensors'):
        assert (checkpoints(tmp_path/'cut')[0]/name).read_bytes() == (checkpoints(tmp_path/'straight')[0]/name).read_bytes()
    assert metrics(tmp_path/'cut') == metrics(tmp_path/'straight')
    assert not list((tmp_path/'cut').glob('.step*')), 'what a killed one left is cleared away'

def test_sigterm_saves(data, tmp_path):
    process = start('--data', data, *SHAPE, *BUDGET, '--steps', '100000', '--eval-every', '50', '--out', tmp_path/'run')
    wait_for(lambda: checkpoints(tmp_path/'run'))
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 128 + signal.SIGTERM and f'to go on: piny_train --resume {tmp_path/"run"}' in said and 'Traceback' not in said, said
    assert read_state(checkpoints(tmp_path/'run')[0])['step'] > 50

def test_a_full_disk(data, tmp_path):
    "A checkpoint that does not fit ends the run with a sentence; the one before it stays, and with room again the run goes on."
    args = ['--data', data, *SHAPE, *BUDGET, '--steps', '40', '--eval-every', '20']
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)) # the weights fit, the optimiser does not
    code, said = call(*args, '--steps', '20', '--decay-steps', '20', '--out', tmp_path/'run')
    assert code == 0, said
    process = subprocess.run([sys.executable, *TRAIN, '--resume', str(tmp_path/'run'), '--steps', '40'], preexec_fn=limited, capture_output=True, text=True, env=ENV)
    assert process.returncode == 1 and 'File too large' in process.stderr and 'Traceback' not in process.stderr, process.stderr
    assert [p.name for p in checkpoints(tmp_path/'run')] == ['step-00000020'] and not list((tmp_path/'run').glob('.step*'))
    code, said = call('--resume', tmp_path/'run', '--steps', '40')
    assert code == 0 and 'going on from step 20' in said, said


# -- what training should find

def curve():
    "The losses of the first 20 steps of preset `quick` on 1,000 built-in stories."
    preset, stories = PRESETS['quick'], list(grammar_stories(1_020, seed=0))
    import tempfile
    with tempfile.TemporaryDirectory() as tmp:
        data = prepare(stories[20:], stories[:20], preset.model.vocab_size, tmp)
        cfg = TrainConfig(**(vars(preset.train) | dict(steps=20, eval_every=20, precision='fp32', compile='no')))
        model, at, losses = Transformer(preset.model), Progress(), []
        for _ in train(model, make_optimizer(model, cfg), loss_scaler(torch.device('cpu'), 'fp32'), cfg, data, at): losses.append(at.loss)
    return losses

def test_the_golden_curve():
    golden = json.loads((HERE/'golden.json').read_text())
    assert curve() == pytest.approx(golden, rel=1e-4)

def test_compiled_training(data):
    "A compiled model learns what the plain one learns."
    from piny.data import Dataset
    cfg, losses = ModelConfig(vocab_size=400, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=16, max_seq_len=32), {}
    for how in ('no', 'yes'):
        torch.compiler.reset()
        model, at, order = Transformer(cfg), Progress(), TrainConfig(steps=5, batch_size=4, micro_batch=3, eval_every=5, precision='fp32', compile=how)
        for _ in train(model, make_optimizer(model, order), loss_scaler(torch.device('cpu'), 'fp32'), order, Dataset.open(data), at): pass
        losses[how] = at.metrics[-1]['train_loss']
    assert losses['yes'] == pytest.approx(losses['no'], abs=1e-4)

if __name__ == '__main__': (HERE/'golden.json').write_text(json.dumps(curve(), indent=1) + '\n') # python tests/test_training.py: a new golden curve
