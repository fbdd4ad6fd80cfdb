"""The README and the docs site, both made from the notebooks.

python tools/docs.py readme    README.md from nbs/index.ipynb
python tools/docs.py site      _docs/, with Quarto where it is installed, else with smalldocs
"""
import html, posixpath, re, shutil, subprocess, sys, warnings
from functools import cache
from itertools import takewhile
from pathlib import Path

import ziamath
from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.processors import FilterDefaults
from nbdev.serve_drv import exec_nb
from piny.ablation import QUESTIONS
from piny.record import load_records
from piny.statistics import comparison_table, reading

ROOT = Path(__file__).resolve().parent.parent
warnings.filterwarnings('error', 'Found cells containing imports and other code') # nbdev would run them for the docs
LINK = re.compile(r'(\]\()(?!\w+:|[#/])([^)\s]+)')  # a Markdown link or picture with a relative target
joined = ''.join                                    # nbformat keeps text as a string or as a list of lines

def target(link, page):
    "The file, seen from the root of the repository, that a relative link on `page` leads to."
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


# -- README.md

def output_md(out):
    "A stored output as Markdown."
    data = dict(text=out['text']) if out['output_type'] == 'stream' else out['data']
    if 'text/markdown' in data: return joined(data['text/markdown']).strip()
    plain = data.get('text', data.get('text/plain'))
    if len(data) > 1 or plain is None:
        raise ValueError(f'README.md takes text and Markdown, and index.ipynb has an output of {", ".join(data)}: '
                         'save a picture to figures/ and link to it, print a table or make it Markdown')
    return f'```text\n{joined(plain).rstrip()}\n```'

def cell_md(cell):
    "The Markdown blocks of a cell and its stored outputs; none when it is hidden."
    if re.match(r'#\|\s*hide\b', cell.source): return
    if cell.cell_type == 'markdown': yield cell.source.strip()
    else:
        yield f'```python\n{cell.source.strip()}\n```'
        yield from map(output_md, cell.outputs)

def readme(page='nbs/index.ipynb'):
    "The notebook as one Markdown page for the root of the repository."
    text = '\n\n'.join(md for cell in read_nb(ROOT/page).cells for md in cell_md(cell))
    return (f'<!-- Made from {page} by `make readme`: change it there. -->\n\n'
            + LINK.sub(lambda m: m[1] + target(m[2], page), text) + '\n')


# -- the site: notebooks and other files of the repository on their way to pages

def site_path(path):
    "Where a file of the repository is on the site: `nbs/20_norm.ipynb` is `norm.ipynb`, and from there `norm.html`."
    return re.sub(r'(^|/)\d+[a-z]*_(?=[^/]+\.ipynb)', r'\1', path.removeprefix('nbs/')).replace('README.md', 'index.md')

@cache
def sources():
    "The notebooks and pages that the site shows, seen from the root of the repository."
    globs = 'nbs/**/*.ipynb', 'ablations/*.ipynb', 'ablations/README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'
    found = (p.relative_to(ROOT) for g in globs for p in sorted(ROOT.glob(g)))
    return [p.as_posix() for p in found if not any(part.startswith(('.', '_')) for part in p.parts)]

def site_links(text, page):
    "`text` of `page`, its links leading to pages of the site where the site has them, and else to the repository on the web."
    cfg, here = get_config(), posixpath.dirname(site_path(page)) or '.'
    def link(m):
        path, hash, anchor = m[2].partition('#')
        path = target(path, page)
        if path in sources() or path.startswith('figures/'): path = posixpath.relpath(site_path(path), here)
        else: path = f'{cfg.git_url}/blob/{cfg.branch}/{path}'
        return m[1] + path + hash + anchor
    return LINK.sub(link, text).replace(f'{cfg.doc_host}{cfg.doc_baseurl}', posixpath.relpath('.', here))

class bare_headings(Processor):
    "Above exported source that is shown, its name alone: nbdev's signature would say the same again."
    def begin(self):
        cells = self.nb.cells
        for i in reversed(range(len(cells))):
            if 'exports' not in (getattr(cells[i], 'directives_', None) or {}): continue
            docs = list(takewhile(lambda c: getattr(c, 'has_sd', False), cells[i+1:]))
            names = [re.search(r'show_doc\((\w+)', c.source)[1] for c in docs]
            heading = [f'### {n}' if n == names[0] else f'[]{{#{n.lower()}}}' for n in names]
            cells[i:i+1+len(docs)] = [*[mk_cell('\n\n'.join(heading), 'markdown')][:len(docs)], cells[i]]

class title_alone(Processor):
    "The title and the sentence below it in a cell of their own: nbdev takes that whole cell for the head of the page."
    def begin(self):
        cell = self.nb.cells[0]
        head, rest = re.match(r'((?:# .*\n*)?(?:>.*\n*)*)([\s\S]*)', cell.source).groups()
        if head and rest: self.nb.cells[:1] = [mk_cell(head, 'markdown'), mk_cell(rest, 'markdown')]

class Page(FilterDefaults):
    "nbdev's own processing of a notebook for the docs, with the two above."
    def base_procs(self):
        return [title_alone, *(p for p in super().base_procs() if p.__name__ not in ('add_fold', 'mv_exports')), bare_headings]

def add_page(source, proc):
    "Process one notebook or Markdown file of the repository into `proc`."
    dest = proc/site_path(source)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if dest.suffix == '.md': return dest.write_text(site_links((ROOT/source).read_text(encoding='utf-8'), source), encoding='utf-8')
    try: exec_nb(ROOT/source, dest, Page)
    except Exception as e:
        e.add_note(f'in {source}')
        raise
    nb = read_nb(dest)
    nb.cells[0].source = re.sub(r'output-file:.*\n', '', nb.cells[0].source) # what nbdev would name the page, it is named
    if source.startswith('ablations/'): # the answers first, then the code that found them
        first = next((i for i, c in enumerate(nb.cells) if c.cell_type == 'code'), len(nb.cells))
        nb.cells[first:first] = [mk_cell(md, 'markdown') for md in answers(Path(source).stem)]
    for cell in nb.cells:
        if cell.cell_type == 'markdown': cell.source = site_links(cell.source, source)
        if 'outputs' in cell: cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr'] # progress bars
        for out in cell.get('outputs', []):
            if md := out.get('data', {}).get('text/markdown'): out['data']['text/markdown'] = site_links(joined(md), source)
    write_nb(nb, dest)

def answers(question):
    "What each study found, from its figure and its records, as Markdown."
    for figure in sorted(ROOT.glob(f'figures/*/{question}.svg')):
        study, variants = figure.parent.name, list(QUESTIONS[question])
        records = load_records(ROOT/'results'/study)
        yield f'## In the study {study}\n\n![](../figures/{study}/{figure.name}){{fig-alt="{question} in the study {study}"}}'
        yield f'<div class="cell-output-display">\n{comparison_table(records, variants).to_html(index=False, border=0)}\n</div>'
        yield reading(records, variants)

def draw_formulas(page):
    "Put drawn formulas where smalldocs leaves TeX to a script from the web."
    def draw(m):
        tex = html.unescape(m[2])
        formula = ziamath.Latex(tex, size=19, color='currentColor', inline=m[1] == 'inline')
        down = f'vertical-align: {formula.getyofst():.1f}px'
        return f'<span class="math {m[1]}" role="img" aria-label="{html.escape(tex)}" style="{down}">{formula.svg()}</span>'
    text = page.read_text(encoding='utf-8')
    text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', draw, text, flags=re.S)
    text = re.sub(r'<link[^>]*katex[^>]*>|<script[^>]*katex[^>]*></script>', '', text)
    page.write_text(text, encoding='utf-8')

def site():
    "Process everything into _proc/, render that, and put the result into _docs/."
    proc, docs = ROOT/'_proc', ROOT/'_docs'
    for folder in (proc, docs): shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT/'nbs', proc, ignore=shutil.ignore_patterns('*.ipynb', '.*'))
    (proc/'sidebar.yml').write_text(re.sub(r'\S+\.ipynb', lambda m: site_path(m[0]), (proc/'sidebar.yml').read_text()))
    if (ROOT/'figures').exists(): shutil.copytree(ROOT/'figures', proc/'figures')
    for source in sources(): add_page(source, proc)
    if quarto := shutil.which('quarto'): subprocess.run([quarto, 'render', proc], check=True)
    else:
        subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'render', '--strict', proc], check=True)
        for page in (proc/'_docs').rglob('*.html'): draw_formulas(page)
    shutil.move(proc/'_docs', docs)
    print(f'the site begins at {docs/"index.html"}')

if __name__ == '__main__':
    if sys.argv[1:] == ['readme']: (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    elif sys.argv[1:] == ['site']: site()
    else: sys.exit(__doc__)
