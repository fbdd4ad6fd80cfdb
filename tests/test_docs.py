"The docs site, built from a copy of the repository: complete, without dead links, and readable without the network."
import json, re, shutil, sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import build

ROOT = Path(__file__).resolve().parent.parent
MODULES = [p for p in sorted((ROOT/'piny').glob('**/*.py')) if not p.stem.startswith('_')]

sys.path.append(str(ROOT/'tools'))
import reference  # noqa: E402, of tools/


class Page(HTMLParser):
    "What a page links to, loads, and offers as an anchor."
    def __init__(self, path):
        super().__init__()
        self.links, self.loads = [], []
        self.ids = set()
        self.formulas = 0
        self.text = path.read_text(encoding='utf-8')
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.ids.add(attrs['id'])
        if tag == 'a' and 'href' in attrs: self.links.append(attrs['href'])
        if tag in ('img', 'script', 'source') and 'src' in attrs: self.loads.append(attrs['src'])
        if tag == 'link' and attrs.get('rel') == 'stylesheet': self.loads.append(attrs['href'])
        if tag == 'span' and attrs.get('role') == 'img': self.formulas += 1


@pytest.fixture(scope='module')
def pages(site): return {p: Page(p) for p in sorted(site.rglob('*.html'))}


# -- links

def dead(pages):
    "The internal links, pictures, scripts and styles that lead nowhere."
    for path, page in pages.items():
        for link in page.links + page.loads:
            to = urlsplit(link)
            if to.scheme or to.netloc: continue
            file = (path.parent/unquote(to.path)).resolve() if to.path else path
            if not file.is_file():
                yield f'{path.name}: {link}'
            elif to.fragment and file in pages and to.fragment not in pages[file].ids:
                yield f'{path.name}: {link}, no such place on the page'


def test_no_link_is_dead(pages): assert not list(dead(pages))


def test_dead_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text(
        '<a href="b.html#here">1</a> <a href="b.html#there">2</a> <img src="c.png"> <a href="https://example.org">3</a>')
    (tmp_path/'b.html').write_text('<p id="here"></p>')
    found = list(dead({p: Page(p) for p in sorted(tmp_path.glob('*.html'))}))
    assert found == ['a.html: b.html#there, no such place on the page', 'a.html: c.png']


def test_boxes_of_the_map_are_links(site, pages):
    links = pages[site/'index.html'].links
    assert {'stories.html', 'tokenizer.html', 'model.html', 'loss.html', 'record.html', 'findings.html'} <= set(links)


def test_definitions_have_anchors(pages):
    text = ''.join(page.text for page in pages.values())
    for name in ('RMSNorm', 'Transformer', 'ModelConfig'):
        assert f'id="{name.lower()}"' in text


# -- what is on the site

def test_every_notebook_and_ablation_has_a_page(site):
    names = {p.relative_to(site).with_suffix('').as_posix() for p in site.rglob('*.html')}
    assert {p.stem.split('_', 1)[-1] for p in (ROOT/'nbs').glob('*.ipynb')} <= names
    assert {f'commands/{p.stem}' for p in (ROOT/'nbs'/'commands').glob('*.ipynb')} <= names
    assert {f'ablations/{p.stem}' for p in (ROOT/'ablations').glob('*.ipynb')} <= names


def prose(path):
    "The longest run of plain words of each Markdown cell that the site shows."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        text = ' '.join(''.join(cell['source']).split())
        runs = re.findall(r'[A-Za-z]+(?: [A-Za-z]+){3,}', text)
        if cell['cell_type'] == 'markdown' and runs: yield max(runs, key=len)


def test_no_prose_is_lost(site, pages):
    for path in [*ROOT.glob('nbs/*.ipynb'), *ROOT.glob('ablations/*.ipynb')]:
        folder = site/('ablations' if path.parent.name == 'ablations' else '.')
        page = folder/f"{re.sub(r'^[0-9]+_', '', path.stem)}.html"
        shown = ' '.join(re.sub(r'<[^>]+>', '', pages[page].text).split())
        assert not [words for words in prose(path) if words not in shown], path.name


def test_only_what_a_page_shows_is_copied(site):
    "Figures of studies that are no one else's business stay at home."
    assert (site/'figures'/'tinystories-250k'/'overview.svg').is_file()
    assert not (site/'figures'/'scratch').exists()


def test_reading_needs_no_network(pages):
    assert not [load for page in pages.values() for load in page.loads if urlsplit(load).netloc]


def test_formulas_are_drawn(site, pages):
    assert pages[site/'norm.html'].formulas > 1
    for path, page in pages.items():
        assert 'class="math inline">\\(' not in page.text, path.name
        assert 'class="math display">\\[' not in page.text, path.name


def test_exercises_show_what_is_to_be_written_and_fold_the_solution(site, pages):
    text = pages[site/'tutorials'/'build_it.html'].text
    notebook = (ROOT/'nbs'/'tutorials'/'build_it.ipynb').read_text(encoding='utf-8')
    parts = text.split('<details class="code-fold">')
    assert len(parts) - 1 == notebook.count('# your part') > 8
    for before, after in zip(parts, parts[1:]):
        assert 'NotImplementedError' in before[before.rindex('<pre'):]
        assert '# your part' in re.sub('<[^>]+>', '', after.partition('</details>')[0])


# -- from numbers to runs

ANSWERS = 'answers.html', 'index.html', 'ablations/norm.html', 'ablations/tokenizer.html'
NUMBER = re.compile(r'(?<![\w.±])[+−]\d\.\d{4}(?!\d)')    # a difference, in a table, a list or a line
TO_RUNS = re.compile(r'<a href="(?:\.\./)?records/([^"#]+)\.html#(\w+)">([^<]*)</a>')
MADE_UP = 'findings.html'  # speaks of synthetic studies, too


def unlinked(text):
    "The differences that a page says without a link to runs."
    text = re.sub(r'<(script|style|svg)\b.*?</\1>|<pre class="sourceCode.*?</pre>', '', text, flags=re.S)
    return NUMBER.findall(unescape(re.sub(r'<[^>]+>', ' ', TO_RUNS.sub('', text))))


def rows(page, variant):
    "The cells of each run in a variant's table on a page of runs."
    part = re.split(rf'<h2[^>]*id="{variant}"|<section[^>]*id="{variant}"', page.text)[-1].partition('</table>')[0]
    for row in re.findall(r'<tr\b.*?</tr>', part, re.S):
        cells = [re.sub('<[^>]+>', '', cell).strip() for cell in re.findall(r'<td\b.*?</td>', row, re.S)]
        links = re.findall(r'href="([^"]+record\.json)"', row)
        if cells: yield cells, links


def records_of(root, study):
    "The records of a study by variant, as they are on file."
    found = {}
    for path in sorted((root/'results'/study).glob('*/record.json')):
        record = json.loads(path.read_text(encoding='utf-8'))
        found.setdefault(record['variant'], {})[path.relative_to(root).as_posix()] = record
    return found


def test_each_number_of_the_answers_leads_to_runs(site, pages):
    for name in ANSWERS:
        assert TO_RUNS.search(pages[site/name].text), name
        assert not unlinked(pages[site/name].text), name
    assert TO_RUNS.search(pages[site/MADE_UP].text)
    assert unlinked(pages[site/MADE_UP].text)  # what no run gave has no link


def test_a_number_without_a_link_is_found():
    row = '<tr><th>gelu</th><td>{}</td></tr>'
    said = '+0.0210 [+0.0100, +0.0320]'
    assert unlinked(row.format(said)) == ['+0.0210', '+0.0100', '+0.0320']
    assert not unlinked(row.format(f'<a href="records/a.html#gelu">{said}</a>'))
    assert not unlinked(row.format('equal within ±0.0150'))


def test_a_difference_leads_to_the_variant_it_is_of(site, root, pages):
    "Its sign and size are those of the means of the runs that it leads to."
    for study, variant, words in TO_RUNS.findall(pages[site/'answers.html'].text):
        whole = re.fullmatch(r'([+−]\d\.\d+) \[.*\]', words)
        if not whole: continue
        def mean(of, role):
            runs = [r for r in records_of(root, study)[of].values() if r['role'] == role and r['val_bpb']]
            return sum(r['val_bpb'] for r in runs) / len(runs)
        ours = mean(variant, 'again' if variant == 'again' else 'verdict')
        assert abs(float(whole[1].replace('−', '-')) - (ours - mean('baseline', 'verdict'))) < .002, (study, variant)


def test_each_run_has_a_row_with_its_losses(root, site, pages):
    studies = sorted((site/'records').glob('*.html'))
    assert {'grammar-tokenizer', 'tinystories-250k'} <= {path.stem for path in studies}
    for path in studies:
        for variant, records in records_of(root, path.stem).items():
            shown = {links[0].partition('/blob/main/')[2]: cells for cells, links in rows(pages[path], variant)}
            assert set(shown) == set(records), (path.stem, variant)
            for name, record in records.items():
                losses = ['' if x is None else f'{x:.4f}' for x in (record['val_loss'], record['val_bpb'])]
                assert shown[name][3:5] == losses, name
                assert shown[name][1] == str(record['seed'])


# -- building

def test_a_site_that_cannot_be_built_leaves_the_old_one(root, site):
    page = root/'nbs'/'20_norm.ipynb'
    whole = page.read_text(encoding='utf-8')
    try:
        page.write_text('{', encoding='utf-8')
        done = build(root)
    finally:
        page.write_text(whole, encoding='utf-8')
    assert done.returncode != 0
    assert (site/'index.html').is_file()


# -- the reference

def test_of_every_parameter_it_is_said_what_it_is():
    found = {p.name: list(reference.unexplained(p.read_text(encoding='utf-8'))) for p in MODULES}
    assert not {name: params for name, params in found.items() if params}


SOURCE = '''
def shout(word, times:int, # how often
          mood # to no end
          # and without reason
         )->str: # loud
    "Say `word`; ValueError for none."

@dataclass
class Cat:
    "A pet."
    fur:str='red' # its colour
    def purr(self, seconds): "Make a noise."

class Dog(Cat):
    def __init__(self, size:float): # in meters
        "Nothing."
'''


def test_parameters_have_the_words_beside_them():
    shout, cat, dog = reference.names(SOURCE)
    assert [p.what for p in shout.params] == ['', 'how often', 'to no end and without reason']
    assert shout.returns == ('str', 'loud')
    assert [(p.name, p.type, p.default, p.what) for p in cat.params] == [('fur', 'str', "'red'", 'its colour')]
    assert [m.name for m in cat.methods] == ['purr']
    assert [p.what for p in dog.params] == ['in meters']
    assert list(reference.unexplained(SOURCE.replace('# its colour', ''))) == ['Cat(fur)']


def test_the_reference_has_every_public_name(site, pages):
    shown = ''.join(pages[p].text for p in sorted((site/'reference').glob('*.html')))
    for p in MODULES:
        for name in reference.names(p.read_text(encoding='utf-8')):
            assert f'>{name.name}<' in shown or f'>{name.name} ' in shown, f'{p.name}: {name.name}'


# -- with Quarto

QUARTO = f'''#!{sys.executable}
"In the place of Quarto, which reads the order of the pages anew once it has run the script before rendering."
import subprocess, sys
from smalldocs.cli import main
if sys.argv[1] == 'render':
    subprocess.run([sys.executable, '../tools/pages.py'], check=True)
    sys.exit(main(['render', '.']))
'''


def all_but(*kept):
    "For `shutil.copytree`: leaves out records, what was built, and all notebooks but these."
    def ignored(folder, names):
        more = {'_docs', '_proc', 'results'} & set(names)
        return more | {name for name in names if name.endswith('.ipynb') and Path(name).stem not in kept}
    return ignored


def test_nbdev_docs_makes_the_pages_and_what_they_load(root, tmp_path):
    quarto = tmp_path/'bin'/'quarto'
    quarto.parent.mkdir()
    quarto.write_text(QUARTO)
    quarto.chmod(0o755)
    few = tmp_path/'repository'
    shutil.copytree(root, few, ignore=all_but('index', '20_norm', '79_answers', 'position'))
    programs = Path(sys.executable).parent
    done = build(few, [programs/'nbdev_docs'], [quarto.parent, programs])
    assert done.returncode == 0, done.stderr
    for name in 'index.html', 'norm.html', 'ablations/position.html', 'web/engine.js', 'web/stories-1m.js':
        assert (few/'_docs'/name).is_file(), name
    assert 'class="way"' in (few/'_docs'/'norm.html').read_text(encoding='utf-8')
