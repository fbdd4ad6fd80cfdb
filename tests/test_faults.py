"""Killed, on a full disk and on a broken one: at file operation n of a training, of making data, of a study.

Each point is a run that meets one fault and a second run that goes on; both together have to leave what an undisturbed
run leaves, byte by byte. CI tries every few points; `python tests/test_faults.py` tries all of them, and keeps the
table that the page on checkpoints shows.
"""
import json, shutil, tempfile
from pathlib import Path

import pytest
from faults import KINDS, Lab, forget_average, forget_step, keep_drawing, skip_folder_sync, unsynced
from piny.data import prepare
from piny.grammar import grammar_stories

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT/'results'/'faults'/'faults.json'
EVERY = dict(training=13, data=13, study=59)  # of the points, in CI
PRELOAD = ['piny.run', 'piny.checkpoint', 'piny.data', 'piny.commands.parser', 'torch._dynamo']
MEASURED = 'started seconds elapsed tokens_per_second peak_memory_bytes digest'.split()  # differs from run to run
SHAPE = ('--vocab-size 400 --dim 16 --n-layers 1 --n-heads 2 --n-kv-heads 1 --hidden-dim 16 --max-seq-len 32 '
         '--precision fp32 --compile no --dropout .1 --batch-size 4 --lr 1e-2 --warmup 2').split()
BUDGET = '--steps 8 --eval-every 4 --save-every 2 --keep 2'.split()


def plain(value):
    "A JSON value without what was measured."
    if isinstance(value, dict): return {k: plain(v) for k, v in value.items() if k not in MEASURED}
    return value

def read(path):
    "What a file holds, without what was measured."
    return plain(json.loads(path.read_text())) if path.suffix == '.json' else path.read_bytes()

def contents(folder):
    "All that a command leaves, by name; locks are no content."
    files = (path for path in sorted(folder.rglob('*')) if path.is_file() and '.lock' not in path.name)
    return {path.relative_to(folder).as_posix(): read(path) for path in files}


class Target:
    "A command that works in a folder of its own."
    def __init__(self, lab, folder, command, *args):
        self.lab = lab
        self.folder = folder
        self.command = command
        self.args = args

    def run(self, fresh=True, **fault):
        if fresh: shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.lab.run(self.command, self.args, self.folder, **fault)

    def undisturbed(self):
        "What it leaves, and the operations on the way."
        code, said, operations = self.run()
        assert code == 0, said
        return contents(self.folder), operations

    def disturbed(self, **fault):
        "What is left by a run with a fault and a second one without."
        spoil = fault.get('spoil', ())
        code, said, _ = self.run(**fault)
        assert 'Traceback' not in said, said
        code, said, _ = self.run(fresh=False, spoil=spoil)
        assert code == 0, said
        return contents(self.folder)

    def try_points(self, every):
        "How many points of each kind were tried; AssertionError for the first that does not hold."
        expected, operations = self.undisturbed()
        tried = {}
        for i, kind in enumerate(KINDS):
            points = range(1 + i % every, len(operations) + 1, every)
            for at in points:
                found = self.disturbed(kind=kind, at=at)
                wrong = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
                assert not wrong, f'{kind} at operation {at}, {operations[at-1]}: {wrong} differ'
            tried[kind] = len(points)
        return tried


def targets(folder):
    "The three of them."
    lab = Lab(folder, PRELOAD)
    stories = list(grammar_stories(320, seed=0))
    (folder/'tales.txt').write_text('\n'.join(stories))
    data = prepare(stories[20:], stories[:20], 400, folder/'data').folder
    train = Target(lab, folder/'training', 'piny.commands.train:main',
                   '--data', data, *SHAPE, *BUDGET, '--out', folder/'training'/'run')
    make = Target(lab, folder/'made', 'piny.commands.data:main',
                  folder/'tales.txt', '--vocab-size', 400, '--out', folder/'made')
    repo = folder/'repo'
    repo.mkdir()
    shutil.copy(ROOT/'settings.ini', repo)
    (repo/'tales.txt').write_text('\n'.join(grammar_stories(600, seed=1)))
    study = Target(lab, repo/'results', 'faults:study', repo)
    study.run()  # makes the data
    return dict(training=train, data=make, study=study)

@pytest.fixture(scope='module')
def all_targets(tmp_path_factory): return targets(tmp_path_factory.mktemp('faults'))

@pytest.mark.parametrize('name', EVERY)
def test_every_few_points(all_targets, name):
    tried = all_targets[name].try_points(EVERY[name])
    assert min(tried.values()) > 2, tried


# -- what is spoilt has to be noticed: a test that cannot fail proves nothing

@pytest.mark.parametrize('spoil', [keep_drawing, forget_step, forget_average], ids=lambda spoil: spoil.__name__)
def test_a_spoilt_restart_is_found(all_targets, spoil):
    train = all_targets['training']
    code, said, operations = train.run(spoil=[spoil])
    assert code == 0, said
    expected = contents(train.folder)
    saved = [i for i, (name, path) in enumerate(operations, 1) if name == 'rename' and 'step-00000004' in path]
    found = train.disturbed(kind='kill', at=saved[0] + 3, spoil=[spoil])
    assert found['run/step-00000008/model.safetensors'] != expected['run/step-00000008/model.safetensors']


@pytest.mark.parametrize('name', EVERY)
def test_every_rename_is_synced(all_targets, name):
    "After a power loss a name may point to nothing, unless its folder was forced to the disk too."
    code, said, operations = all_targets[name].run()
    assert code == 0, said
    assert not unsynced(operations)

def test_a_missing_sync_is_found(all_targets):
    code, said, operations = all_targets['training'].run(spoil=[skip_folder_sync])
    assert code == 0, said
    assert unsynced(operations)


def main():
    "Try every point, and keep the table."
    with tempfile.TemporaryDirectory() as folder:
        table = {}
        for name, target in targets(Path(folder)).items():
            table[name] = target.try_points(1)
            print(name, table[name], flush=True)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(json.dumps(table, indent=1) + '\n')

if __name__ == '__main__': main()
