"What pip installs: the metadata, the requirements and what each of them is for, the commands, and `make setup`."
import configparser, os, re, shutil, subprocess, sys, zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
INI = configparser.ConfigParser()
INI.read(ROOT/'settings.ini', encoding='utf-8')
INI = INI['DEFAULT']
EXTRAS = {key.removesuffix('_requirements'): INI[key].split() for key in INI if key.endswith('_requirements')}
EXTRAS['dev'] = sorted(set(sum(EXTRAS.values(), [])))

SCRIPTS = dict(script.split('=') for script in INI['console_scripts'].split())


def requirements(text): return [Requirement(r) for r in text.split()]


# -- the wheel

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "What pip would install, made without the network."
    folder = tmp_path_factory.mktemp('build')
    for part in 'setup.py pyproject.toml settings.ini MANIFEST.in README.md LICENSE'.split():
        shutil.copy(ROOT/part, folder)
    for part in ('piny', 'ablations'):
        shutil.copytree(ROOT/part, folder/part, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    (folder/'nbs'/'tutorials').mkdir(parents=True)
    shutil.copy(ROOT/'nbs'/'tutorials'/'build_it.ipynb', folder/'nbs'/'tutorials')
    program = "from setuptools.build_meta import build_wheel as f; f('dist')"
    subprocess.run([sys.executable, '-c', program], cwd=folder, check=True, capture_output=True)
    return next((folder/'dist').glob('*.whl'))


@pytest.fixture(scope='module')
def built(wheel):
    "The metadata that pip would read."
    return metadata.PathDistribution(next(p for p in zipfile.Path(wheel).iterdir() if p.name.endswith('.dist-info')))


def test_metadata_are_the_settings(built):
    assert built.name == INI['lib_name']
    assert built.version == INI['version']
    assert built.metadata['Summary'] == INI['description']
    assert built.metadata['Requires-Python'] == f'>={INI["min_python"]}'
    assert built.metadata['Description'].strip() == (ROOT/'README.md').read_text().strip()


def test_requirements_are_the_settings(built):
    always = {(r.name, str(r.specifier)) for r in map(Requirement, built.requires) if 'extra' not in str(r.marker)}
    assert always == {(r.name, str(r.specifier)) for r in requirements(INI['requirements'])}


def test_the_citation_is_of_what_is_built(built):
    cited = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    assert cited['version'] == built.version
    assert cited['repository-code'] == built.metadata['Home-page']
    assert cited['license'] == INI['license']
    assert [a['name'] for a in cited['authors']] == [INI['author']]


@pytest.mark.parametrize('extra', EXTRAS)
def test_extras_are_the_settings(built, extra):
    found = [r for r in map(Requirement, built.requires) if f'extra == "{extra}"' in str(r.marker)]
    declared = [Requirement(r) for r in EXTRAS[extra]]
    assert {(r.name, str(r.specifier)) for r in found} == {(r.name, str(r.specifier)) for r in declared}


def test_dev_holds_all_extras():
    names = {r.name for r in map(Requirement, EXTRAS['dev'])}
    assert all(Requirement(r).name in names for extra in EXTRAS.values() for r in extra)


def test_no_requirement_is_pinned():
    "A program that uses piny chooses its versions; constraints.txt has those that are tested."
    for r in requirements(INI['requirements'] + ' ' + ' '.join(EXTRAS['dev'])):
        assert not any(s.operator in ('==', '===') for s in r.specifier), f'{r} leaves no choice'


def test_what_reads_untrusted_files_has_a_floor():
    "Releases with known holes are never installed beside piny."
    floors = {r.name: r for extra in [INI['requirements'].split(), *EXTRAS.values()] for r in map(Requirement, extra)}
    assert not floors['sentencepiece'].specifier.contains('0.2.0')  # CVE-2026-1260
    assert not floors['torch'].specifier.contains('2.5.1')          # CVE-2025-32434
    assert not floors['filelock'].specifier.contains('3.20.2')      # CVE-2026-22701
    assert not floors['tqdm'].specifier.contains('4.66.2')          # CVE-2024-34062
    for package in 'safetensors tokenizers gguf protobuf numpy huggingface_hub'.split():
        assert '>=' in str(floors[package].specifier), f'{package} has no floor'


def test_constraints_pin_what_is_required():
    lines = [line for line in (ROOT/'constraints.txt').read_text().splitlines() if not line.startswith('#')]
    pins = {r.name.lower(): r for r in map(Requirement, lines)}
    for pin in pins.values():
        assert re.fullmatch(r'==[^+*]+', str(pin.specifier)), f'{pin}: one exact release, without a local part'
    for r in requirements(INI['requirements'] + ' ' + ' '.join(EXTRAS['dev'])):
        assert r.name.lower() in pins, f'constraints.txt does not pin {r.name}'
        version = str(pins[r.name.lower()].specifier).removeprefix('==')
        assert r.specifier.contains(version), f'{pins[r.name.lower()]} is not {r}'


def test_the_model_is_installed_and_small(wheel):
    inside = {f.filename: f.file_size for f in zipfile.ZipFile(wheel).infolist()}
    files = {p.name: p.stat().st_size for p in (ROOT/'piny'/'models'/'stories-1m').iterdir()}
    assert {'model.safetensors', 'tokenizer.model', 'config.json', 'record.json', 'README.md'} <= files.keys()
    assert {name: inside.get(f'piny/models/stories-1m/{name}') for name in files} == files
    assert sum(files.values()) < 4e6


def test_the_questions_come_with_the_package(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f'piny/ablations/{path.name}' for path in (ROOT/'ablations').glob('*.ipynb')} <= inside


def test_the_exercises_come_with_the_package(wheel):
    inside = zipfile.ZipFile(wheel)
    committed = (ROOT/'nbs'/'tutorials'/'build_it.ipynb').read_bytes()
    assert inside.read('piny/tutorials/build_it.ipynb') == committed


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "The programs of an environment that has the wheel, and all else from this one."
    env = tmp_path_factory.mktemp('installed')/'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', env], check=True)
    pip = [sys.executable, '-m', 'pip', '--python', env/'bin'/'python']
    subprocess.run([*pip, 'install', '-q', '--no-deps', '--no-index', wheel], check=True)
    here, there = (subprocess.run([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
                                  check=True, capture_output=True, text=True).stdout.strip()
                   for python in (sys.executable, env/'bin'/'python'))
    (Path(there)/'others.pth').write_text(here)
    return env/'bin'


def run_installed(installed, line, folder):
    "What a program of that environment says in a folder that is no clone."
    program, *words = line.split()
    done = subprocess.run([installed/program, *words], cwd=folder, capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=''))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_what_runs(installed, tmp_path):
    found = run_installed(installed, 'python -c print(__import__("piny").__file__)', tmp_path)
    assert found.startswith(str(installed.parent))


def test_every_command_runs_outside_of_a_clone(installed, tmp_path):
    for script in SCRIPTS: assert run_installed(installed, f'{script} --help', tmp_path).startswith(f'usage: {script}')
    assert run_installed(installed, 'piny_generate --prompt Once --seed 1 --max-tokens 20', tmp_path).startswith('Once')
    assert 'runs' in run_installed(installed, 'piny_ablate --preset quick --dry-run', tmp_path)
    assert not list(tmp_path.glob('*.ipynb'))
    assert 'is written' in run_installed(installed, 'piny_exercises exercises', tmp_path)
    assert (tmp_path/'exercises'/'build_it.ipynb').is_file()


def test_a_question_is_answered_outside_of_a_clone(installed, tmp_path):
    run_installed(installed, 'piny_ablate placement --study tiny --preset quick --seeds 1 --steps 2 --lr 1e-3 --dim 32 '
                             '--n-layers 1 --n-heads 2 --n-kv-heads 1 --hidden-dim 64 --workers 1', tmp_path)
    assert (tmp_path/'results'/'tiny'/'notebooks'/'placement.ipynb').is_file()
    assert list((tmp_path/'results'/'tiny').glob('*/record.json'))
    assert list((tmp_path/'figures'/'tiny').glob('*.svg'))


# -- what is installed is enough

# modules that need an extra to be imported; all others need nothing more, or when they are used
NEEDS = dict(
    ablate='style statistics comparison panels rates figures findings study sweep noise growth waiting '
           'benchmark seeds claims ladder cost',
    quality='quality',
    tune='search tuning')


def modules():
    "Every module of piny, as in 'commands.train'."
    paths = [p.relative_to(ROOT/'piny').with_suffix('') for p in sorted((ROOT/'piny').glob('**/*.py'))]
    return ['.'.join(p.parts) for p in paths if not p.stem.startswith('_')]


IMPORT_NAMES = dict(  # where it is not the name of the package
    protobuf=['google.protobuf'], **{'mini-racer': ['py_mini_racer']}, pydivsufsort=['pydivsufsort'], nbdev=['nbdev', 'execnb'], ipykernel=['ipykernel'])


def installed_with(*extras):
    "Names of the packages that are not installed when these extras are."
    have = {r.name for extra in extras for r in map(Requirement, EXTRAS[extra])}
    have |= {r.name for r in requirements(INI['requirements'])}
    missing = {Requirement(r).name for r in EXTRAS['dev']} - have
    return [module for package in sorted(missing) for module in IMPORT_NAMES.get(package, [package])]


def import_without(missing, names):
    "Import modules of piny in a process of its own, where some packages are not to be found."
    program = (f'import sys; sys.modules.update(dict.fromkeys({missing!r}))\n'
               + '\n'.join(f'import piny.{name}' for name in names))
    return subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)


def test_requirements_suffice_to_tell_stories_and_to_train():
    needing = ' '.join(NEEDS.values()).split()
    done = import_without(installed_with(), [m for m in modules() if m not in needing])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('extra', NEEDS)
def test_an_extra_suffices_for_its_modules(extra):
    done = import_without(installed_with(extra), NEEDS[extra].split())
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_found():
    done = import_without(['seaborn'], ['style'])
    assert done.returncode == 1
    assert 'import of seaborn halted' in done.stderr


@pytest.mark.fresh
def test_a_fresh_environment_tells_stories_and_trains(tmp_path):
    "What is installed by `pip install piny`, at the newest versions that it allows."
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'env'], check=True)
    programs = tmp_path/'env'/'bin'
    subprocess.run([programs/'pip', 'install', '-q', ROOT], check=True)
    for line in ('piny_generate --prompt Once --seed 1',
                 'piny_data grammar --vocab-size 512 --out data',
                 'piny_train --preset quick --data data/grammar-512 --vocab-size 512 --steps 2 --warmup 1 --out run'):
        program, *words = line.split()
        subprocess.run([programs/program, *words], cwd=tmp_path, check=True)


# -- the console scripts

def test_console_scripts_lead_to_functions(built):
    scripts = [e for e in built.entry_points if e.group == 'console_scripts']
    assert sorted(f'{e.name}={e.value}' for e in scripts) == sorted(INI['console_scripts'].split())
    for script in scripts: assert callable(script.load()), script


HEAVY = 'torch optuna pandas matplotlib seaborn scipy papermill transformers tokenizers gguf'.split()


def answer(script, *words, missing=(), folder=ROOT):
    "What a console script says to the words, its exit code, and what heavy things it has imported by then."
    module, function = SCRIPTS[script].split(':')
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from {module} import {function}
sys.argv = {[script, *words]!r}
try: {function}()
except SystemExit as e: print('exit', e.code, *[m for m in {HEAVY!r} if sys.modules.get(m)])
"""
    done = subprocess.run([sys.executable, '-c', program], cwd=folder, capture_output=True, text=True)
    *lines, last = done.stdout.splitlines() or ['']
    _, code, *heavy = last.split() or ['', '']
    return '\n'.join(lines) + done.stderr, code, heavy


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_comes_at_once(script):
    says, code, heavy = answer(script, '--help')
    assert code in ('0', 'None')
    assert says.startswith(f'usage: {script}')
    assert not heavy


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_mistyped_option_is_answered_at_once(script):
    says, code, heavy = answer(script, '--no-such-option')
    assert code == '2'
    assert says.startswith(f'{script}: ')
    assert not heavy


@pytest.mark.parametrize('extra, line', [
    ('export', 'piny_export gguf --out gguf'),
    ('export', 'piny_export hf --out hf'),
    ('quality', 'piny_quality --train a.txt --stories a.txt --name a'),
    ('tune', 'piny_tune --data none'),
    ('ablate', 'piny_draw tinystories-250k'),
    ('ablate', 'piny_ablate norm --corpus grammar --preset quick --study none')])
def test_a_command_without_its_extra_says_so(extra, line, tmp_path):
    (tmp_path/'a.txt').write_text('One day.\n<|endoftext|>\n' * 100)
    shutil.copytree(ROOT/'ablations', tmp_path/'ablations')
    script, *words = line.split()
    says, code, _ = answer(script, *words, missing=installed_with(), folder=tmp_path)
    assert code == '2', says
    assert says.endswith(f"is not installed: pip install 'piny[{extra}]'\n"), says


# -- the set-up of `make`

STUB = '''#!/bin/sh
echo "$@" >> log
case "$2" in venv) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;; pip) test ! -e broken;; esac
'''


@pytest.fixture
def setup(tmp_path):
    "`make setup` with a Python that writes down what it is asked to do; returns the commands of one call."
    for part in 'Makefile settings.ini setup.py pyproject.toml constraints.txt'.split():
        shutil.copy(ROOT/part, tmp_path)
    (tmp_path/'python').write_text(STUB)
    (tmp_path/'python').chmod(0o755)
    def make():
        log = tmp_path/'log'
        log.write_text('')
        done = subprocess.run(['make', 'setup', 'PYTHON=./python'], cwd=tmp_path, capture_output=True)
        return done.returncode, [line.split()[1] for line in log.read_text().splitlines()]
    return tmp_path, make


def test_set_up_is_done_once_and_again_when_the_pins_change(setup):
    root, make = setup
    assert make() == (0, ['venv', 'pip'])
    assert make() == (0, [])
    for part in 'settings.ini setup.py constraints.txt'.split():
        os.utime(root/part, (2**32, 2**32))  # later than any stamp
        assert make() == (0, ['pip'])
        os.utime(root/part, (0, 0))


def test_interrupted_set_up_does_not_count(setup):
    root, make = setup
    (root/'broken').touch()
    assert make() == (2, ['venv', 'pip'])
    assert make() == (2, ['venv', 'pip'])
    (root/'broken').unlink()
    assert make() == (0, ['venv', 'pip'])
    assert make() == (0, [])
