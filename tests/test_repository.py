"What has to hold between the files of the repository, each check with a case that it must refuse."
import ast, json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('**/[!_.]*.ipynb'))
ABLATIONS = sorted((ROOT/'ablations').glob('*.ipynb'))

sys.path.append(str(ROOT/'tools'))
import contents  # noqa: E402, of tools/


def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def code(path): return [source(c) for c in cells(path) if c['cell_type'] == 'code']
def name(path): return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def write_notebook(path, *sources, kind='code'):
    "A notebook of cells with these sources."
    made = [dict(cell_type=kind, source=s, metadata={}) for s in sources]
    path.write_text(json.dumps(dict(cells=made)))
    return path


# -- made from the notebooks: cleaning, exporting and the README leave nothing to do

MAKERS = dict(
    clean=['nbdev_clean', 'nbdev_clean --fname ablations'],
    export=['nbdev_export'],
    readme=['python tools/readme.py'])
PARTS = 'nbs ablations piny results figures tests tools settings.ini README.md CONTRIBUTING.md CHANGELOG.md'


@pytest.fixture
def copy(tmp_path):
    "A copy of what the makers read and write, so that they never touch the repository itself."
    for part in PARTS.split():
        if (ROOT/part).is_dir():
            shutil.copytree(ROOT/part, tmp_path/part, ignore=shutil.ignore_patterns('.*', '__pycache__'))
        elif (ROOT/part).exists():
            shutil.copy(ROOT/part, tmp_path/part)
    return tmp_path


def files(root):
    "From the name of each file below `root` to what is in it."
    paths = [p for p in sorted(root.rglob('*')) if p.is_file() and '__pycache__' not in p.parts]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}


def run(command, root):
    "A program of the environment, in a copy of the repository."
    program, *args = command.split()
    env = dict(os.environ, PYTHONPATH=str(root))
    env.pop('IN_TEST', None)  # with it, nbdev_export does nothing
    done = subprocess.run([BIN/program, *args], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def changed_by(maker, root):
    "The files that are not as the maker makes them."
    before = files(root)
    if maker == 'export':  # from nothing, so that a module without a notebook is found too
        for module in set(root.glob('piny/**/*.py')) - set(root.glob('piny/**/__init__.py')):
            module.unlink()
    for command in MAKERS[maker]: run(command, root)
    after = files(root)
    changed = [f for f in sorted({*before, *after}) if before.get(f) != after.get(f)]
    return [f for f in changed if not f.endswith('.last_checked')]


@pytest.mark.parametrize('maker', MAKERS)
def test_in_sync(maker, copy):
    changed = changed_by(maker, copy)
    assert not changed, f'not as the notebooks have it: {", ".join(changed)}. Run `make prepare`, and commit what it writes'


def spoil_notebook(root):
    page = root/'nbs'/'20_norm.ipynb'
    page.write_text(page.read_text().replace('"execution_count": null', '"execution_count": 7', 1))
    return 'nbs/20_norm.ipynb'


def spoil_module(root):
    with open(root/'piny'/'norm.py', 'a') as f:
        f.write('\n# edited by hand\n')
    return 'piny/norm.py'


def spoil_lookup(root):
    (root/'piny'/'_modidx.py').write_text('d = {}\n')
    return 'piny/_modidx.py'


def leave_orphan(root):
    (root/'piny'/'orphan.py').write_text('"A module without a notebook."\n')
    return 'piny/orphan.py'


def spoil_readme(root):
    (root/'README.md').write_text('# another\n')
    return 'README.md'


def renumber(root):
    (root/'nbs'/'20_norm.ipynb').rename(root/'nbs'/'26_norm.ipynb')
    return 'nbs/sidebar.yml'


SPOILERS = [('clean', spoil_notebook), ('export', spoil_module), ('export', spoil_lookup), ('export', leave_orphan),
            ('readme', spoil_readme), ('readme', renumber)]


@pytest.mark.parametrize('maker, spoil', SPOILERS)
def test_out_of_sync_is_found(maker, spoil, copy):
    assert spoil(copy) in changed_by(maker, copy)


# -- weights are few

WEIGHTS = '.safetensors', '.gguf', '.bin', '.pt', '.pth', '.npz', '.onnx'
BUDGET = 12e6  # bytes of all of them together, so that a clone stays small


def weights(root):
    "From the name of each file of weights that git keeps to its bytes."
    listed = subprocess.run(['git', 'ls-files'], cwd=root, capture_output=True, text=True, check=True).stdout
    return {name: (root/name).stat().st_size for name in listed.splitlines() if name.endswith(WEIGHTS)}


def over(sizes):
    "The files of weights, the largest first, if they are too much; else none."
    return sorted(sizes, key=sizes.get, reverse=True) if sum(sizes.values()) > BUDGET else []


@pytest.mark.skipif(not (ROOT/'.git').exists(), reason='weights are counted where there is a repository')
def test_weights_stay_within_their_budget():
    sizes = weights(ROOT)
    assert 'piny/models/stories-1m/model.safetensors' in sizes
    assert not over(sizes)


def test_too_many_weights_are_found(tmp_path):
    subprocess.run(['git', 'init', '-q'], cwd=tmp_path, check=True)
    for name, size in {'a/small.safetensors': 5e6, 'large.gguf': 8e6, 'text.txt': 9e6}.items():
        (tmp_path/name).parent.mkdir(exist_ok=True)
        with open(tmp_path/name, 'wb') as f: f.truncate(int(size))
    subprocess.run(['git', 'add', '.'], cwd=tmp_path, check=True)
    assert over(weights(tmp_path)) == ['large.gguf', 'a/small.safetensors']


# -- a variant is one line

def test_a_new_variant_is_shown_where_it_has_not_run(copy):
    page = copy/'nbs'/'50_ablation.ipynb'
    before = page.read_text(encoding='utf-8')
    after = before.replace("layernorm=dict(norm='layernorm')", "layernorm=dict(norm='layernorm'), bare=dict(norm='none')")
    assert after != before
    page.write_text(after, encoding='utf-8')
    run('nbdev_export', copy)
    run('python tools/readme.py', copy)
    run('python tools/pages.py', copy)
    readme = (copy/'README.md').read_text(encoding='utf-8')
    assert 'LayerNorm, bare, no norm |' in readme
    assert '`bare`' in readme


# -- ablation notebooks, which papermill runs

def papermill_faults(path):
    "Why papermill would run something else than was asked for."
    tagged = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    lines = [line for c in cells(path) for line in source(c).splitlines()]
    if len(tagged) != 1:
        yield f'{len(tagged)} cells are tagged `parameters`; without one, papermill runs the baseline in silence'
    if any(line.startswith('#|') for line in lines):
        yield 'a line starts with #|, which papermill does not know'
    if any(re.search(r'^\w+\s*:[^=]+\|', source(c), re.M) for c in tagged):
        yield 'papermill cannot read an annotation with |: write `lr = 0.0 # help`'


@pytest.mark.parametrize('path', ABLATIONS, ids=name)
def test_parameters_are_those_of_a_study(path):
    from piny.plan import Study
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
    def cell(source, *tags): return dict(cell_type='code', source=source, metadata=dict(tags=list(tags)))
    def faults(*cells):
        path.write_text(json.dumps(dict(cells=cells)))
        return len(list(papermill_faults(path)))
    assert faults(cell('seeds = 3 # how many', 'parameters')) == 0
    assert faults(cell('seeds = 3')) == 1
    assert faults(cell('seeds = 3', 'parameters'), cell('lr = 0.0', 'parameters')) == 1
    assert faults(cell('seeds = 3', 'parameters'), cell('#| hide\nseeds')) == 1
    assert faults(cell('lr: float | None = None', 'parameters')) == 1


# -- one direction of imports, which is the order of reading

def imported(source):
    "The modules of piny that the source imports, with `*` for all names of one."
    source = re.sub(r'^\s*[%!].*', '', source, flags=re.M)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((a.name.removeprefix('piny.'), '') for a in node.names if a.name.startswith('piny.'))
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0] == 'piny'):
            module = (node.module or '').removeprefix('piny').lstrip('.')
            yield from ((module or a.name, a.name) for a in node.names)


def exports(path): return re.findall(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(code(path)), re.M)


def import_faults(paths):
    "Imports of what stands later; `paths` are in the order of reading."
    written_by = {module: i for i, path in enumerate(paths) for module in exports(path)}
    for i, path in enumerate(paths):
        for module, what in (found for c in code(path) for found in imported(c)):
            if what == '*':
                yield f'{path.name} has `from piny.{module} import *`: name what is used'
            elif module not in written_by:
                yield f'{path.name} imports {module}, which no notebook exports'
            elif written_by[module] > i:
                yield f'{path.name} imports {module} of the later {paths[written_by[module]].name}'


def test_each_notebook_uses_only_those_before_it():
    assert not list(import_faults(contents.notebooks()))


def test_the_site_shows_every_notebook():
    shown = contents.notebooks()
    have = {p for p in [*NOTEBOOKS, *ABLATIONS] if p.stem != 'index'}
    assert set(shown) == have, 'a number out of the decades, or a folder that tools/contents.py does not know'
    assert len(shown) == len(have)


def test_one_module_for_a_notebook():
    modules = [m for path in NOTEBOOKS for m in exports(path)]
    assert len(modules) == len(set(modules)), 'two notebooks write one module'
    assert not [path.name for path in NOTEBOOKS if len(exports(path)) > 1]


def test_wrong_imports_are_found(tmp_path):
    a = write_notebook(tmp_path/'00_a.ipynb', '#| default_exp a', 'from piny.b import f')
    b = write_notebook(tmp_path/'01_b.ipynb', '#| default_exp b', 'from piny.a import *', 'from piny import c, a',
                       'import piny.a, piny.b')
    assert list(import_faults([a, b])) == [
        '00_a.ipynb imports b of the later 01_b.ipynb',
        '01_b.ipynb has `from piny.a import *`: name what is used',
        '01_b.ipynb imports c, which no notebook exports']


# -- notebooks share a process: nbdev_test runs many of them in one

def grad_enabled(path):
    "Whether the notebook ends with gradients enabled, as it began."
    states = re.findall(r'^torch\.set_grad_enabled\((\w+)\)', '\n'.join(code(path)), re.M)
    return not states or states[-1] == 'True'


def test_notebooks_leave_gradients_enabled():
    left = [path.name for path in NOTEBOOKS if not grad_enabled(path)]
    assert not left, f'{left} disable gradients for the notebooks tested next: end with torch.set_grad_enabled(True)'


def test_disabled_gradients_are_found(tmp_path):
    def after(*sources): return grad_enabled(write_notebook(tmp_path/'00_a.ipynb', *sources))
    assert after('import torch')
    assert after('torch.set_grad_enabled(False)', 'x', 'torch.set_grad_enabled(True)')
    assert not after('torch.set_grad_enabled(False)', 'with torch.set_grad_enabled(True): x')


# -- links, also after notebooks were given other numbers

def dead_links(root):
    "The relative links of notebooks and pages that lead nowhere."
    notebooks = sorted([*root.glob('nbs/**/*.ipynb'), *root.glob('ablations/*.ipynb')])
    texts = {p: '\n'.join(source(c) for c in cells(p) if c['cell_type'] == 'markdown') for p in notebooks}
    for page in 'README.md CONTRIBUTING.md CHANGELOG.md ablations/README.md'.split():
        texts[root/page] = (root/page).read_text(encoding='utf-8')
    for path, text in texts.items():
        for link in re.findall(r'\]\((?!\w+:|#)([^)\s#]+)', text):
            if not (path.parent/link).exists(): yield f'{path.relative_to(root)}: {link}'


def test_links_lead_somewhere(): assert not list(dead_links(ROOT))


def test_dead_links_of_sources_are_found(copy):
    shutil.copy(ROOT/'LICENSE', copy)
    (copy/'nbs'/'20_norm.ipynb').rename(copy/'nbs'/'26_norm.ipynb')
    found = list(dead_links(copy))
    assert 'README.md: nbs/20_norm.ipynb' in found
    assert all('20_norm.ipynb' in link for link in found)


def test_renumbering_keeps_links_headers_and_sidebar(copy):
    shutil.copy(ROOT/'LICENSE', copy)
    for command in ('init -q', 'add -A'):
        subprocess.run(['git', *command.split()], cwd=copy, check=True)
    run('python tools/renum.py 20_norm=21_norm 21_position=20_position commands/train=commands/training', copy)
    run('nbdev_export', copy)
    run('python tools/readme.py', copy)
    assert not list(dead_links(copy))
    assert '../nbs/21_norm.ipynb' in (copy/'piny'/'norm.py').read_text()
    assert 'nbs/21_norm.ipynb' in (copy/'CONTRIBUTING.md').read_text()
    order = re.findall(r'- (\S+\.ipynb)', (copy/'nbs'/'sidebar.yml').read_text())
    assert order.index('20_position.ipynb') == order.index('21_norm.ipynb') - 1
    assert 'commands/training.ipynb' in order


def test_commands_of_the_pages_exist():
    pages = ['README.md', 'CONTRIBUTING.md', '.ci/run', *map(name, ROOT.glob('.github/workflows/*'))]
    text = ''.join((ROOT/page).read_text() for page in pages)
    named = set(re.findall(r'make (\w+)(?=\s{2,}#|`|\n)', text))
    known = set(re.findall(r'^(\w+):', (ROOT/'Makefile').read_text(), re.M))
    assert {'figures', 'test', 'docs'} <= named <= known


# -- the model that comes with piny

def test_the_card_and_the_record_speak_of_the_model():
    from piny.checkpoint import load
    folder = ROOT/'piny'/'models'/'stories-1m'
    model, tokenizer = load()
    record = json.loads((folder/'record.json').read_text())
    card = (folder/'README.md').read_text()
    assert record['status'] == 'finished'
    assert record['config']['model'] == vars(model.cfg)
    assert record['fingerprints']['tokenizer'] == tokenizer.fingerprint
    assert record['n_params'] == sum(p.numel() for p in model.parameters())
    assert f"{record['n_params']:,} parameters" in card
    assert f"{record['val_loss']:.4f} nats" in card
    assert f"{record['val_bpb']:.4f} bits per byte" in card
    assert f"{record['steps']:,} steps" in card
    assert f"{record['tokens']/1e6:.1f} million" in card
