"The README's commands, run as they are typed: each does its work, and git sees nothing of it afterwards."
import os, re, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def block(heading):
    "The lines of the shell block below a heading of the README."
    text = (ROOT/'README.md').read_text(encoding='utf-8').split(f'## {heading}\n')[1]
    return re.search(r'```sh\n(.*?)```', text, re.S)[1].splitlines()


@pytest.fixture
def clone(tmp_path):
    "A repository with the files that the commands need."
    for part in '.gitignore settings.ini ablations'.split():
        (shutil.copytree if (ROOT/part).is_dir() else shutil.copy)(ROOT/part, tmp_path/part)
    for command in ('init -q', 'add -A'):
        subprocess.run(['git', *command.split()], cwd=tmp_path, check=True)
    return tmp_path


def typed(lines, folder):
    "Run lines in one shell, as someone would who has set up and activated the environment; the first error ends it."
    lines = [re.sub(r'^(make setup && )?source \S+ && ', '', line) for line in lines]
    env = dict(os.environ, PATH=f'{BIN}{os.pathsep}{os.environ["PATH"]}', OMP_NUM_THREADS='1')
    return subprocess.run(['bash', '-e', '-o', 'pipefail', '-c', '\n'.join(lines)], cwd=folder, env=env,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)


def seen_by_git(folder):
    done = subprocess.run(['git', 'status', '--porcelain'], cwd=folder, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.startswith('A ')]


def test_stories_are_told_and_models_exported(clone):
    done = typed(block('Tell stories'), clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('One day') >= 3
    assert 'The cat was sad' in done.stdout
    assert (clone/'runs'/'back'/'model.safetensors').is_file()
    assert not seen_by_git(clone)


def test_a_command_that_fails_is_found(clone):
    done = typed(['piny_generate --prompts no-such-file.txt', 'echo went on'], clone)
    assert done.returncode == 2
    assert 'went on' not in done.stdout


def test_what_is_left_behind_is_found(clone):
    typed(['echo > out.ipynb'], clone)
    assert seen_by_git(clone) == ['?? out.ipynb']


def test_the_story_is_the_one_that_the_command_tells():
    quoted = re.findall(r'^> (.*)', (ROOT/'README.md').read_text(encoding='utf-8'), re.M)
    told = subprocess.run([Path(sys.executable).parent/'piny_generate', '--prompt', 'Once upon a time'],
                          capture_output=True, text=True).stdout
    story = ' '.join(quoted[1:]).split()  # the first quotation is what piny is
    assert told.split()[:20] == story[:20]  # the rounding of another processor may change a later word
