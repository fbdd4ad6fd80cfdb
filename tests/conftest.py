"What several tests share: the docs site, built once from a copy of the repository."
import os, shutil, signal, subprocess, sys
from pathlib import Path

import pytest

# A shell that runs tests in the background ignores Ctrl-C, and hands that down to all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
PARTS = 'nbs ablations piny figures results settings.ini tools CONTRIBUTING.md CHANGELOG.md'.split()


def without_quarto():
    "The folders of programs but for those that hold Quarto."
    return [p for p in os.environ['PATH'].split(os.pathsep) if not (Path(p)/'quarto').exists()]


def build(root, command=(sys.executable, 'tools/docs.py'), programs=()):
    "Build the site of a copy, with the programs of these folders, as where Quarto is not installed."
    path = os.pathsep.join([*map(str, programs), *without_quarto()])
    env = dict(os.environ, PATH=path, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture(scope='session')
def root(tmp_path_factory):
    "A copy of what the site is made of, with a study that has a figure and no records."
    root = tmp_path_factory.mktemp('docs')
    for part in PARTS:
        if (ROOT/part).is_dir():
            shutil.copytree(ROOT/part, root/part, ignore=shutil.ignore_patterns('.*', '__pycache__'))
        else:
            shutil.copy(ROOT/part, root/part)
    (root/'figures'/'scratch').mkdir()
    (root/'figures'/'scratch'/'position.svg').write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return root


@pytest.fixture(scope='session')
def site(root):
    "The built site's folder."
    done = build(root)
    assert done.returncode == 0, done.stderr
    assert 'open _docs/index.html' in done.stdout
    return root/'_docs'
