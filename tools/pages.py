"""Write the pages of the site into the project folder: the first half of a build, before Quarto or smalldocs renders.

`project: pre-render` of nbs/_quarto.yml names this file, so that `nbdev_docs` and `make docs` build the same site. In
the project folder is then, for each notebook or Markdown file of the repository, the page that the site shows.
"""
import html, json, os, posixpath, re, shutil, sys
from copy import deepcopy
from functools import cache

from contents import ROOT, head, sidebar
from contents import pages as sidebar_pages
from execnb.nbio import mk_cell, read_nb, write_nb
from links import LINK, SVG_LINK, on_the_web, target
from records import findings, linked, page_of, recorded
from records import pages as record_pages
from reference import pages as reference_pages
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_export,
                              rm_header_dash, strip_ansi, strip_hidden_metadata)
from piny.ablation import QUESTIONS
from piny.commands.exercises import blanked, is_exercise, without_directives
from piny.seeds import study_script
from piny.web import kept_models, pair

PROC = ROOT/'_proc'  # the project folder

# folders that are copied to the site as they are, for what pages load: from where in the repository, to where
STATIC = {'nbs/static': 'static', 'piny/web': 'web'}
MADE = dict(Records=record_pages, Reference=reference_pages)  # last of the sidebar, made at each build
RAW_LINK = re.compile(r'((?:href|src)=")(?!\w+:|[#/])([^"#]+)')  # a link or a script of a Markdown cell's HTML


# -- where things are

def site_path(path):
    "Where a file of the repository is on the site: `nbs/20_norm.ipynb` is `norm.ipynb`, and from there `norm.html`."
    for folder, there in STATIC.items():
        if path.startswith(f'{folder}/'): return there + path.removeprefix(folder)
    return re.sub(r'(^|/)\d+_(?=[^/]+\.ipynb)', r'\1', path.removeprefix('nbs/')).replace('README.md', 'index.md')


def page_path(path):
    "The page that is made of a notebook or of a Markdown file."
    return re.sub(r'\.(ipynb|md)$', '.html', site_path(path))


def top(page):
    "The way from a page to the top of the site."
    return posixpath.relpath('.', posixpath.dirname(site_path(page)) or '.')


@cache
def sources():
    "The notebooks and pages that the site shows, seen from the root of the repository."
    globs = 'nbs/**/*.ipynb', 'ablations/*.ipynb', 'ablations/README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'
    found = (p.relative_to(ROOT) for g in globs for p in sorted(ROOT.glob(g)))
    return [p.as_posix() for p in found if not any(part.startswith(('.', '_')) for part in p.parts)]


# -- links

def on_the_site(path, page):
    "Where `page` finds a file of the repository, or what shows it; a figure is copied when it is first linked."
    if page_of(path): path = page_of(path)
    elif path.startswith('figures/') and (ROOT/path).is_file():
        (PROC/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/path, PROC/path)
    elif path not in sources() and site_path(path).partition('/')[0] not in STATIC.values(): return on_the_web(path)
    return posixpath.relpath(site_path(path), posixpath.dirname(site_path(page)) or '.')


def to_runs(text, page):
    "`text` of `page`, the numbers of studies leading to their runs."
    return linked(text, lambda study: on_the_site(f'results/{study}', page).replace('.md', '.html'))


def site_links(text, page):
    "`text` of `page`, its links leading to pages of the site where it has them, and else to the repository on the web."
    def link(m):
        path, hash, anchor = m[2].partition('#')
        return m[1] + on_the_site(target(path, page), page) + hash + anchor
    def raw(m): return link(m).replace('.ipynb', '.html')
    cfg = get_config()
    return RAW_LINK.sub(raw, LINK.sub(link, text)).replace(f'{cfg.doc_host}{cfg.doc_baseurl}', top(page))


def picture_links(svg, page):
    "A picture whose boxes lead to pages."
    return SVG_LINK.sub(lambda m: m[1] + page_path(target(m[2], page)), svg)


def title_of(path):
    "What a page is called."
    if path.suffix == '.ipynb': return head(path)[0]
    return re.search(r'^# (.+)', path.read_text(encoding='utf-8'), re.M)[1]


@cache
def order():
    "From each page, seen from the root, to its title, in the order of the sidebar."
    written = {path.relative_to(ROOT).as_posix(): title_of(path) for path in sidebar_pages()}
    return written | {page: title for page, (title, _) in made_pages().items()}


def way(page):
    "The line below a page's title: to the pages before and after it, and to where it is written."
    names = list(order())
    i = names.index(page)
    here = posixpath.dirname(site_path(page)) or '.'
    def to(other, before='', after=''):
        href = posixpath.relpath(page_path(other), here)
        return f'<a href="{href}">{before}{html.escape(order()[other])}{after}</a>'
    around = [to(names[i-1], before='← ')] if i else []
    if i + 1 < len(names): around.append(to(names[i+1], after=' →'))
    own = ''
    if page in sources():
        what = 'Open the notebook' if page.endswith('.ipynb') else 'Open the source'
        there = on_the_web(page)
        own = f'<a href="{there}">{what}</a><a href="{there.replace("/blob/", "/edit/")}">Edit</a>'
    return f'<nav class="way" aria-label="Around this page">{"".join(around)}<span></span>{own}</nav>'


# -- pages

class headings(Processor):
    "Above exported source, the names that it defines: a heading and places that links lead to."
    def begin(self):
        cells = []
        level = '##'  # below the title, and below the sections once there are some
        for cell in self.nb.cells:
            if cell.cell_type == 'markdown' and re.search('^## ', cell.source, re.M): level = '###'
            if cell.cell_type == 'code' and 'exports' in cell.directives_:
                names = re.findall(r'^(?:def|class) ([A-Za-z]\w*)', cell.source, re.M)
                lines = [f'{level} {n}' if n == names[0] else f'[]{{#{n.lower()}}}' for n in names]
                if names: cells.append(mk_cell('\n\n'.join(lines), 'markdown'))
            cells.append(cell)
        self.nb.cells = cells


def link_names(cell):
    "Link names in backquotes to where they are defined, but for those that are part of a link already."
    if cell.cell_type != 'markdown': return
    own = []
    def keep(m):
        own.append(m[0])
        return f'\0{len(own) - 1}\0'
    linked = NbdevLookup().linkify(re.sub(r'\[[^]\n]*\]\([^)\n]*\)', keep, cell.source)) or ''
    cell.source = re.sub(r'\0(\d+)\0', lambda m: own[int(m[1])], linked)


# nbdev's own steps, without those that run a notebook to say in a table what its source says beside it
STEPS = [FrontmatterProc, populate_language, headings, strip_ansi, hide_line, filter_stream_,
         rm_header_dash, rm_export, clean_magics, hide_, link_names, strip_hidden_metadata]


def with_blanks(cells):
    "The cells, with what a student has to fill above each solution."
    for cell in cells:
        if is_exercise(cell):
            blank = deepcopy(cell)
            blank.source = blanked(without_directives(cell.source))
            yield blank
        yield cell


def said(markdown):
    "The last paragraph of a Markdown cell as plain words."
    words = markdown.strip().split('\n\n')[-1]
    words = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', words)
    return ' '.join(re.sub(r'^[#>|*-]+ |[*`$_\\]', '', words, flags=re.M).split()).rstrip(':')


def describe(cell, words):
    "Give the pictures of a cell the words above it, for those who cannot see them; a drawing may have its own."
    kinds = {kind for output in cell.get('outputs', []) for kind in output.get('data', {})}
    if kinds & {'image/png', 'image/jpeg'} and 'fig-alt' not in cell.source:
        cell.source = f'#| fig-alt: {json.dumps("Picture: " + words, ensure_ascii=False)}\n{cell.source}'
    for data in (output['data'] for output in cell.get('outputs', []) if 'image/svg+xml' in output.get('data', {})):
        svg = ''.join(data['image/svg+xml'])
        if '<title>' in svg: continue
        label = html.escape(f'Picture: {words}')
        data['image/svg+xml'] = svg.replace('<svg ', f'<svg role="img" aria-label="{label}" ', 1)


def write_md(dest, page, text):
    "A page of Markdown, with its way below the title."
    text = re.sub(r'^# .+\n', lambda m: f'{m[0]}\n{way(page)}\n', text, count=1)
    dest.write_text(text, encoding='utf-8')


def made_pages():
    "The pages that are made of records and of the modules: from the place of each to its title and its Markdown."
    return {page: its for made in MADE.values() for page, its in made().items()}


def add_made():
    "Write the pages that no one has written."
    for page, (_, text) in made_pages().items():
        (PROC/page).parent.mkdir(exist_ok=True)
        write_md(PROC/page, page, text)


FEWER = '''## What would fewer seeds have told you?

Each study computed anew in this page, from the first seeds alone ([how](../nbs/73_seeds.ipynb)).
'''
SEEDS = '''### Of {study}

From the losses of [its runs](../results/{study}):

<div data-piny="seeds" data-study="{study}"></div>
'''


@cache
def seeded():
    "The studies of which the page of answers can say what fewer seeds would have told, each as a script."
    found = {}
    for study, records in recorded().items():
        if not any(r['variant'] != 'baseline' and r['seed'] == 1 for r in records): continue
        try: found[study] = study_script(records)
        except ValueError as e: print(f'{study}: no widget of seeds, since {e}', file=sys.stderr)
    return found


def beside(source):
    "What ends a page of answers or of a question: fewer seeds, verdicts, and variants that tell stories."
    script = '<script src="../piny/web/widgets.js"></script>'
    if source.endswith('_answers.ipynb'):
        if seeded(): yield FEWER
        for study in seeded(): yield SEEDS.format(study=study) + script
    question = source.removeprefix('ablations/').removesuffix('.ipynb')
    if question not in QUESTIONS: return
    for study in recorded():
        if question not in findings(study): continue
        said, *_ = findings(study)[question].words().split('\n\n')
        yield f'## What the study {study} found\n\n{said}'
    for study, kept in kept_models(ROOT/'results').items():
        widget = pair(study, [v for v in kept if v == 'baseline' or v in QUESTIONS[question]])
        if widget: yield f'## In their own words: {study}\n\n{widget}\n{script}'


def with_links(output, page):
    "An output, with links to pages, and from the numbers of studies to their runs; a printed line with one is HTML."
    data = output.get('data', {})
    if md := data.get('text/markdown'): data['text/markdown'] = to_runs(site_links(''.join(md), page), page)
    if table := data.get('text/html'): data['text/html'] = to_runs(''.join(table), page)
    printed = html.escape(''.join(output.get('text', ''))).rstrip()
    if printed == to_runs(printed, page): return output
    shown = {'text/html': f'<pre><code>{to_runs(printed, page)}</code></pre>'}
    return dict(output_type='display_data', metadata={}, data=shown)


def add_page(source):
    "Process one notebook or Markdown file of the repository into `_proc/`."
    dest = PROC/site_path(source)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if dest.suffix == '.md':
        return write_md(dest, source, site_links((ROOT/source).read_text(encoding='utf-8'), source))
    nb = read_nb(ROOT/source)
    nb.cells = list(with_blanks(nb.cells))
    NBProcessor(nb=nb, procs=STEPS).process()
    nb.cells[0].source = re.sub(r'output-file:.*\n', '', nb.cells[0].source)  # it is named already
    words = head(ROOT/source)[0]
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            words = said(cell.source) or words
            cell.source = site_links(cell.source, source)
        if 'outputs' in cell: cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']  # progress bars
        describe(cell, words)
        if 'outputs' in cell: cell.outputs = [with_links(output, source) for output in cell.outputs]
        for data in (o['data'] for o in cell.get('outputs', []) if 'data' in o):
            if svg := data.get('image/svg+xml'): data['image/svg+xml'] = picture_links(''.join(svg), source)
    nb.cells += [mk_cell(to_runs(site_links(text, source), source), 'markdown') for text in beside(source)]
    nb.cells.insert(1, mk_cell(way(source), 'markdown'))
    write_nb(nb, dest)


# -- the project folder

def contents():
    "The order of the pages, with those that are made at the end, for Quarto and smalldocs."
    text = re.sub(r'\S+\.(ipynb|md)', lambda m: site_path(m[0]), sidebar())
    for section, made in MADE.items():
        if made(): text += f'      - section: {section}\n        contents:\n'
        text += ''.join(f'          - {page}\n' for page in made())
    return text


def begin():
    "Empty the project folder of what another build or nbdev left, and write the settings of the site."
    PROC.mkdir(exist_ok=True)
    for path in PROC.glob('[!._]*'):
        if path.is_dir(): shutil.rmtree(path)
        else: path.unlink()
    shutil.copytree(ROOT/'nbs', PROC, ignore=shutil.ignore_patterns('*.ipynb', '.*'), dirs_exist_ok=True)
    (PROC/'sidebar.yml').write_text(contents(), encoding='utf-8')


def write(changed=()):
    "Write the pages of some sources anew, or of all."
    if not changed: begin()
    for source in changed or sources(): add_page(source)
    add_made()


if __name__ == '__main__': write(os.environ.get('PINY_CHANGED', '').split())
