"""Faults at chosen file operations of a process, in the manner of SQLite's tests.

A program runs in a process of its own in which every operation on files below one folder is counted. At operation
number `n` it is killed, or the operation fails as on a full or a broken disk. What it leaves is what the next start
finds.
"""
import errno, importlib, json, multiprocessing, os, signal, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

EVENTS = {'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.chmod', 'os.truncate', 'os.link', 'os.symlink'}
KINDS = ('kill', 'cut', 'full', 'broken')  # cut: killed, and half of what was written is not on the disk


class Disk:
    "The operations of this process below `root`; the one numbered `at` fails in the manner of `kind`."
    def __init__(self, root, kind=None, at=None):
        self.root = str(root)
        self.kind = kind
        self.at = at
        self.seen = []  # (operation, path seen from the root)

    def watch(self):
        "From here on, count and fail."
        import safetensors.torch
        import piny.weights
        fsync, save_file = os.fsync, safetensors.torch.save_file
        def watched_fsync(fd):
            self.operation('fsync', os.readlink(f'/proc/self/fd/{fd}'))
            fsync(fd)
        def watched_save_file(tensors, path, *args, **kwargs):
            self.operation('save_file', path)
            save_file(tensors, path, *args, **kwargs)
        os.fsync = watched_fsync
        piny.weights.save_file = watched_save_file
        sys.addaudithook(self.audit)
        return self

    def audit(self, event, args):
        if event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR): self.operation('open', args[0])
        elif event in EVENTS: self.operation(event.removeprefix('os.'), args[1] if event == 'os.rename' else args[0])

    def operation(self, name, path):
        path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ''
        if not path.startswith(self.root): return
        self.seen.append((name, path.removeprefix(self.root) or '/'))
        if len(self.seen) == self.at: self.fail(name, path)

    def fail(self, name, path):
        number = dict(full=errno.ENOSPC, broken=errno.EIO).get(self.kind)
        if number: raise OSError(number, os.strerror(number), path)
        if self.kind == 'cut' and name == 'fsync' and os.path.isfile(path):
            os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def work(command, args, root, log, kind, at, spoil):
    "In a process of its own: call `command`, as in `piny.commands.train:main`, with a fault."
    import torch
    torch.set_num_threads(1)
    os.environ['COLUMNS'] = '100'
    module, function = command.split(':')
    for change in spoil: change()
    call = getattr(importlib.import_module(module), function)
    disk = Disk(root, kind, at).watch()
    with open(log, 'w') as f, redirect_stdout(f), redirect_stderr(f):
        try: call(args)
        finally: Path(f'{log}.seen').write_text(json.dumps(disk.seen))


class Lab:
    "Runs a command again and again, each time in a fresh process that has its imports already."
    def __init__(self, folder, preload):
        self.log = folder/'log'
        self.context = multiprocessing.get_context('forkserver')
        self.context.set_forkserver_preload(preload)

    def run(self, command, args, root, kind=None, at=None, spoil=()):
        "The exit code, what was said, and the operations that were seen."
        call = (command, list(map(str, args)), str(root), str(self.log), kind, at, spoil)
        process = self.context.Process(target=work, args=call)
        process.start()
        process.join(300)
        assert process.exitcode is not None, 'it hangs'
        seen = Path(f'{self.log}.seen')
        operations = json.loads(seen.read_text()) if seen.exists() else []
        seen.unlink(missing_ok=True)
        return process.exitcode, self.log.read_text(), operations


def unsynced(operations):
    "The renames that no sync of their folder follows before another file is renamed or the program ends."
    lost = []
    for i, (name, path) in enumerate(operations):
        if name != 'rename': continue
        folder = os.path.dirname(path)
        later = [(n, p) for n, p in operations[i+1:] if n in ('fsync', 'rename')]
        synced = later.index(('fsync', folder)) if ('fsync', folder) in later else len(later)
        if any(n == 'rename' and os.path.dirname(p) != folder for n, p in later[:synced]) or synced == len(later):
            lost.append(path)
    return lost


# -- a study, small enough to be made hundreds of times

def study(args):
    "The runs of a study of two variants, made in this process one after the other, and its figures."
    repo, = map(Path, args)
    os.chdir(repo)
    from piny.findings import draw_study
    from piny.plan import Study
    from piny.record import load_records
    from piny.study import begin, jobs, record_of
    from piny.sweep import clear, work
    asked = Study(corpus=str(repo/'tales.txt'), study='tales', seeds=1, steps=4, lr=.01,
                  precision='fp32', compile='no')
    begin(asked)
    todo = jobs(asked, 'norm')
    clear(todo)
    for made in work(asked, ['norm']): pass
    if not all(map(record_of, todo)): sys.exit(1)
    draw_study(load_records(asked.folder('results')), repo/'results'/'drawn')


# -- what the tests have to notice: each spoils the program, and is called in its process

def keep_drawing():
    "Dropout's seeds come one after the other, as if they depended on what was drawn before."
    import itertools, piny.loop
    numbers = itertools.count()
    piny.loop.seed_for = lambda seed, name: next(numbers)

def forget_step():
    "A resumed run begins with the first batch."
    import piny.loop
    batches = piny.loop.batches
    piny.loop.batches = lambda tokens, seed, start, *rest: batches(tokens, seed, 0, *rest)

def forget_average():
    "A resumed run has lost the optimiser's mean gradients."
    import piny.checkpoint
    restore = piny.checkpoint.restore_optimizer
    def forgetful(model, opt, tensors):
        restore(model, opt, tensors)
        for state in opt.state.values(): state['exp_avg'].zero_()
    piny.checkpoint.restore_optimizer = forgetful

def skip_folder_sync():
    "Files are forced to the disk, and the names in their folder are not."
    import piny.files
    sync = piny.files.sync
    piny.files.sync = lambda path: None if path.is_dir() else sync(path)
