"What has to hold between the files of the repository, each check with a case that it must refuse."
import ast, configparser, json, os, re, shutil, subprocess, sys, zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('**/[!_.]*.ipynb'))
ABLATIONS = sorted((ROOT/'ablations').glob('*.ipynb'))

def settings():
    ini = configparser.ConfigParser()
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def code(path): return [source(c) for c in cells(path) if c['cell_type'] == 'code']
def name(path): return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


# -- made from the notebooks: cleaning, exporting and the README leave nothing to do

MAKERS = dict(clean=['nbdev_clean', 'nbdev_clean --fname ablations'], export=['nbdev_export'], readme=['python tools/docs.py readme'])

@pytest.fixture
def copy(tmp_path):
    "A copy of what the makers read and write, so that they never touch the repository itself."
    for part in 'nbs ablations piny settings.ini tools README.md'.split():
        if (ROOT/part).is_dir(): shutil.copytree(ROOT/part, tmp_path/part, ignore=shutil.ignore_patterns('.*', '__pycache__'))
        elif (ROOT/part).exists(): shutil.copy(ROOT/part, tmp_path/part)
    return tmp_path

def contents(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file() and '__pycache__' not in p.parts}

def changed_by(maker, root):
    "The files that are not as the maker makes them."
    before = contents(root)
    if maker == 'export': # from nothing, so that a module without a notebook is found too
        for module in set(root.glob('piny/**/*.py')) - set(root.glob('piny/**/__init__.py')): module.unlink()
    for command in MAKERS[maker]:
        program, *args = command.split()
        env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} # with it, nbdev_export does nothing
        subprocess.run([BIN/program, *args], cwd=root, env=env, check=True, capture_output=True, text=True)
    after = contents(root)
    return [f for f in sorted({*before, *after}) if before.get(f) != after.get(f) and not f.endswith('.last_checked')]

@pytest.mark.parametrize('maker', MAKERS)
def test_in_sync(maker, copy):
    changed = changed_by(maker, copy)
    assert not changed, f'not as the notebooks have it: {", ".join(changed)}. Run `make prepare`, and commit what it writes'

def spoil_notebook(root):
    page = root/'nbs'/'20_norm.ipynb'
    page.write_text(page.read_text().replace('"execution_count": null', '"execution_count": 7', 1))
    return 'nbs/20_norm.ipynb'

def spoil_module(root):
    with open(root/'piny'/'norm.py', 'a') as f: f.write('\n# edited by hand\n')
    return 'piny/norm.py'

def spoil_index(root):
    (root/'piny'/'_modidx.py').write_text('d = {}\n')
    return 'piny/_modidx.py'

def leave_orphan(root):
    (root/'piny'/'orphan.py').write_text('"A module without a notebook."\n')
    return 'piny/orphan.py'

def spoil_readme(root):
    (root/'README.md').write_text('# another\n')
    return 'README.md'

@pytest.mark.parametrize('maker, spoil', [('clean', spoil_notebook), ('export', spoil_module), ('export', spoil_index),
                                          ('export', leave_orphan), ('readme', spoil_readme)])
def test_out_of_sync_is_found(maker, spoil, copy):
    assert spoil(copy) in changed_by(maker, copy)


# -- ablation notebooks, which papermill runs

def papermill_faults(path):
    tagged = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    if len(tagged) != 1: yield f'{len(tagged)} cells are tagged `parameters`, and papermill needs one: without it, it runs the baseline in silence'
    if any(line.startswith('#|') for c in cells(path) for line in source(c).splitlines()): yield 'a line starts with #|, which papermill does not know'
    if any(re.search(r'^\w+\s*:[^=]+\|', source(c), re.M) for c in tagged): yield 'papermill cannot read an annotation with |: write `lr = 0.0 # help`'

@pytest.mark.parametrize('path', ABLATIONS, ids=name)
def test_parameters_are_those_of_a_study(path):
    from piny.study import Study
    declared = {}
    for c in cells(path):
        if 'parameters' in c['metadata'].get('tags', []): exec(source(c), {}, declared)
    assert declared == vars(Study())

@pytest.mark.parametrize('path', ABLATIONS, ids=name)
def test_papermill_can_run(path):
    faults = list(papermill_faults(path))
    assert not faults, f'{name(path)}: {"; ".join(faults)}'

def test_unusable_ablations_are_found(tmp_path):
    path = tmp_path/'bad.ipynb'
    cell = lambda source, *tags: dict(cell_type='code', source=source, metadata=dict(tags=list(tags)))
    def faults(*cells):
        path.write_text(json.dumps(dict(cells=cells)))
        return len(list(papermill_faults(path)))
    assert faults(cell('seeds = 3 # how many', 'parameters')) == 0
    assert faults(cell('seeds = 3')) == 1
    assert faults(cell('seeds = 3', 'parameters'), cell('lr = 0.0', 'parameters')) == 1
    assert faults(cell('seeds = 3', 'parameters'), cell('#| hide\nseeds')) == 1
    assert faults(cell('lr: float | None = None', 'parameters')) == 1


# -- one direction of imports

def imported(source):
    "The modules of piny that the source imports, with `*` for all names of one."
    source = re.sub(r'^\s*[%!].*', '', source, flags=re.M)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): yield from ((a.name.removeprefix('piny.'), '') for a in node.names if a.name.startswith('piny.'))
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0] == 'piny'):
            module = (node.module or '').removeprefix('piny').lstrip('.')
            yield from ((module or a.name, a.name) for a in node.names)

def exports(path): return re.findall(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(code(path)), re.M)

def import_faults(paths):
    order = {module: path.name for path in paths for module in exports(path)}
    for path in paths:
        for module, what in (i for c in code(path) for i in imported(c)):
            if what == '*': yield f'{path.name} has `from piny.{module} import *`: name what is used'
            elif module not in order: yield f'{path.name} imports {module}, which no notebook exports'
            elif path.name[0].isdigit() and order[module] > path.name: yield f'{path.name} imports {module} of the later {order[module]}'

def test_imports_go_one_way():
    assert not list(import_faults(NOTEBOOKS))

def test_one_module_for_a_notebook():
    modules = [m for path in NOTEBOOKS for m in exports(path)]
    assert len(modules) == len(set(modules)), 'two notebooks write one module'
    assert not [path.name for path in NOTEBOOKS if len(exports(path)) > 1]

def test_wrong_imports_are_found(tmp_path):
    def write(name, *sources):
        path = tmp_path/name
        path.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=s, metadata={}) for s in sources])))
        return path
    a = write('00_a.ipynb', '#| default_exp a', 'from piny.b import f')
    b = write('01_b.ipynb', '#| default_exp b', 'from piny.a import *', 'from piny import c, a', 'import piny.a, piny.b')
    assert list(import_faults([a, b])) == ['00_a.ipynb imports b of the later 01_b.ipynb',
        '01_b.ipynb has `from piny.a import *`: name what is used', '01_b.ipynb imports c, which no notebook exports']

def test_runs_without_the_tools_of_development():
    "What is installed by `pip install piny` has to be enough to import every module."
    tools = [Requirement(r).name for r in settings()['dev_requirements'].split()] + ['execnb']
    modules = ['.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in sorted((ROOT/'piny').glob('**/*.py')) if not p.stem.startswith('_')]
    program = f'import sys; sys.modules.update(dict.fromkeys({tools!r})); import {", ".join(modules)}'
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- notebooks share a process: nbdev_test runs many of them in one

def grad_enabled(path):
    "Whether the notebook ends with gradients enabled, as it began."
    return (re.findall(r'^torch\.set_grad_enabled\((\w+)\)', '\n'.join(code(path)), re.M) or ['True'])[-1] == 'True'

def test_notebooks_leave_gradients_enabled():
    left = [path.name for path in NOTEBOOKS if not grad_enabled(path)]
    assert not left, f'{left} disable gradients for the notebooks tested next: end with a hidden cell torch.set_grad_enabled(True)'

def test_disabled_gradients_are_found(tmp_path):
    path = tmp_path/'00_a.ipynb'
    def after(*sources):
        path.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=s, metadata={}) for s in sources])))
        return grad_enabled(path)
    assert after('import torch') and after('torch.set_grad_enabled(False);', 'x', 'torch.set_grad_enabled(True);')
    assert not after('torch.set_grad_enabled(False);', 'with torch.set_grad_enabled(True): x')


# -- nothing is forgotten

def test_every_notebook_is_in_the_sidebar_and_in_the_readme():
    listed = re.findall(r'- (\S+\.ipynb)', (ROOT/'nbs'/'sidebar.yml').read_text())
    have = [p.relative_to(ROOT/'nbs').as_posix() for p in NOTEBOOKS]
    assert sorted(listed) == sorted(have), 'nbs/sidebar.yml is not the list of the notebooks'
    linked = re.findall(r'\]\(nbs/([^)#]+\.ipynb)', (ROOT/'README.md').read_text())
    assert set(have) - set(linked) <= {'index.ipynb'}, 'the table in nbs/index.ipynb lacks a notebook'

def test_links_of_the_pages_lead_somewhere():
    pages = [ROOT/p for p in 'README.md CONTRIBUTING.md CHANGELOG.md ablations/README.md'.split()]
    dead = [f'{name(page)}: {link}' for page in pages for link in re.findall(r'\]\((?!\w+:|#)([^)\s#]+)', page.read_text()) if not (page.parent/link).exists()]
    assert not dead

def test_commands_of_the_pages_exist():
    text = ''.join((ROOT/p).read_text() for p in ('README.md', 'CONTRIBUTING.md', '.ci/run', *map(name, ROOT.glob('.github/workflows/*'))))
    named, known = set(re.findall(r'make (\w+)(?=\s{2,}#|`|\n)', text)), set(re.findall(r'^(\w+):', (ROOT/'Makefile').read_text(), re.M))
    assert {'figures', 'test', 'docs'} <= named <= known


# -- packaging

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "What pip would install, made without the network."
    folder = tmp_path_factory.mktemp('build')
    for part in 'setup.py pyproject.toml settings.ini MANIFEST.in README.md LICENSE'.split(): shutil.copy(ROOT/part, folder)
    shutil.copytree(ROOT/'piny', folder/'piny', ignore=shutil.ignore_patterns('__pycache__'))
    program = "from setuptools.build_meta import build_wheel as f; f('dist')"
    subprocess.run([sys.executable, '-c', program], cwd=folder, check=True, capture_output=True)
    return next((folder/'dist').glob('*.whl'))

@pytest.fixture(scope='module')
def built(wheel):
    "The metadata that pip would read."
    return metadata.PathDistribution(next(p for p in zipfile.Path(wheel).iterdir() if p.name.endswith('.dist-info')))

def test_metadata_are_the_settings(built):
    ini = settings()
    assert (built.name, built.version, built.metadata['Summary']) == (ini['lib_name'], ini['version'], ini['description'])
    assert built.metadata['Requires-Python'] == f'>={ini["min_python"]}'
    assert built.metadata['Description'].strip() == (ROOT/'README.md').read_text().strip()
    needed = {(r.name, str(r.specifier), 'extra' in str(r.marker)) for r in map(Requirement, built.requires)}
    declared = {(r.name, str(r.specifier), extra) for extra, key in enumerate(('requirements', 'dev_requirements')) for r in map(Requirement, ini[key].split())}
    assert needed == declared

def test_console_scripts_lead_to_functions(built):
    scripts = [e for e in built.entry_points if e.group == 'console_scripts']
    assert sorted(f'{e.name}={e.value}' for e in scripts) == sorted(settings()['console_scripts'].split())
    for script in scripts: assert callable(script.load()), script

def test_constraints_pin_what_is_required():
    pins = {r.name.lower(): r for line in (ROOT/'constraints.txt').read_text().splitlines() if not line.startswith('#') for r in [Requirement(line)]}
    assert all(re.fullmatch(r'==[^+*]+', str(r.specifier)) for r in pins.values()), 'a constraint is one exact release, without a local part'
    for r in map(Requirement, (settings()['requirements'] + ' ' + settings()['dev_requirements']).split()):
        assert r.name in pins, f'constraints.txt does not pin {r.name}'
        assert r.specifier.contains(str(pins[r.name].specifier).removeprefix('==')), f'{pins[r.name]} is not {r}'


# -- the model that comes with piny

MODEL = ROOT/'piny'/'models'/'stories-1m'

def test_the_model_is_installed_and_small(wheel):
    inside = {f.filename: f.file_size for f in zipfile.ZipFile(wheel).infolist()}
    files = {p.name: p.stat().st_size for p in MODEL.iterdir()}
    assert {'model.safetensors', 'tokenizer.model', 'config.json', 'record.json', 'README.md'} <= files.keys()
    assert {name: inside.get(f'piny/models/stories-1m/{name}') for name in files} == files
    assert sum(files.values()) < 4e6

def test_the_card_and_the_record_speak_of_the_model():
    from piny.checkpoint import load
    model, tok = load()
    record, card = json.loads((MODEL/'record.json').read_text()), (MODEL/'README.md').read_text()
    assert record['status'] == 'finished' and record['config']['model'] == vars(model.cfg) and record['fingerprints']['tokenizer'] == tok.fingerprint
    assert record['n_params'] == sum(p.numel() for p in model.parameters())
    for words in (f"{record['n_params']:,} parameters", f"{record['val_loss']:.4f} nats", f"{record['val_bpb']:.4f} bits per byte", f"{record['steps']:,} steps", f"{record['tokens']/1e6:.1f} million"):
        assert words in card, words


# -- the set-up of `make`

STUB = '''#!/bin/sh
echo "$@" >> log
case "$2" in venv) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;; pip) test ! -e broken;; esac
'''

@pytest.fixture
def setup(tmp_path):
    "`make setup` with a Python that writes down what it is asked to do; returns the commands of one call."
    for part in 'Makefile settings.ini setup.py pyproject.toml constraints.txt'.split(): shutil.copy(ROOT/part, tmp_path)
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
        os.utime(root/part, (2**32, 2**32)) # later than any stamp
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
