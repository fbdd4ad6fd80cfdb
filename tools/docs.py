"""Build the docs site from the notebooks into _docs/, with Quarto where it is installed, else with smalldocs.

python tools/docs.py
"""
import html, os, posixpath, re, shutil, subprocess, sys
from functools import cache

import ziamath
from contents import ROOT, sidebar
from execnb.nbio import mk_cell, read_nb, write_nb
from links import LINK, SVG_LINK, on_the_web, target
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, Processor
from nbdev.processors import (add_links, clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_export,
                              rm_header_dash, strip_ansi, strip_hidden_metadata)


def site_path(path):
    "Where a file of the repository is on the site: `nbs/20_norm.ipynb` is `norm.ipynb`, and from there `norm.html`."
    return re.sub(r'(^|/)\d+_(?=[^/]+\.ipynb)', r'\1', path.removeprefix('nbs/')).replace('README.md', 'index.md')


@cache
def sources():
    "The notebooks and pages that the site shows, seen from the root of the repository."
    globs = 'nbs/**/*.ipynb', 'ablations/*.ipynb', 'ablations/README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'
    found = (p.relative_to(ROOT) for g in globs for p in sorted(ROOT.glob(g)))
    return [p.as_posix() for p in found if not any(part.startswith(('.', '_')) for part in p.parts)]


def on_the_site(path, page, proc):
    "Where `page` finds a file of the repository; a figure is copied to the site when it is first linked."
    if path.startswith('figures/') and (ROOT/path).is_file():
        (proc/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/path, proc/path)
    elif path not in sources(): return on_the_web(path)
    return posixpath.relpath(site_path(path), posixpath.dirname(site_path(page)) or '.')


def site_links(text, page, proc):
    "`text` of `page`, its links leading to pages of the site where it has them, and else to the repository on the web."
    def link(m):
        path, hash, anchor = m[2].partition('#')
        return m[1] + on_the_site(target(path, page), page, proc) + hash + anchor
    cfg, top = get_config(), posixpath.relpath('.', posixpath.dirname(site_path(page)) or '.')
    return LINK.sub(link, text).replace(f'{cfg.doc_host}{cfg.doc_baseurl}', top)


def picture_links(svg, page):
    "A picture whose boxes lead to pages."
    return SVG_LINK.sub(lambda m: m[1] + site_path(target(m[2], page)).replace('.ipynb', '.html'), svg)


class headings(Processor):
    "Above exported source, the names that it defines: a heading and places that links lead to."
    def begin(self):
        for i in reversed(range(len(self.nb.cells))):
            cell = self.nb.cells[i]
            if cell.cell_type != 'code' or 'exports' not in cell.directives_: continue
            names = re.findall(r'^(?:def|class) ([A-Za-z]\w*)', cell.source, re.M)
            lines = [f'### {n}' if n == names[0] else f'[]{{#{n.lower()}}}' for n in names]
            if names: self.nb.cells.insert(i, mk_cell('\n\n'.join(lines), 'markdown'))


# nbdev's own steps, without those that run a notebook to say in a table what its source says beside it
STEPS = [FrontmatterProc, populate_language, headings, strip_ansi, hide_line, filter_stream_,
         rm_header_dash, rm_export, clean_magics, hide_, add_links, strip_hidden_metadata]


def add_page(source, proc):
    "Process one notebook or Markdown file of the repository into `proc`."
    dest = proc/site_path(source)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if dest.suffix == '.md':
        text = (ROOT/source).read_text(encoding='utf-8')
        return dest.write_text(site_links(text, source, proc), encoding='utf-8')
    nb = read_nb(ROOT/source)
    NBProcessor(nb=nb, procs=STEPS).process()
    nb.cells[0].source = re.sub(r'output-file:.*\n', '', nb.cells[0].source)  # it is named already
    for cell in nb.cells:
        if cell.cell_type == 'markdown': cell.source = site_links(cell.source, source, proc)
        if 'outputs' in cell: cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']  # progress bars
        for data in (o['data'] for o in cell.get('outputs', []) if 'data' in o):
            if md := data.get('text/markdown'): data['text/markdown'] = site_links(''.join(md), source, proc)
            if svg := data.get('image/svg+xml'): data['image/svg+xml'] = picture_links(''.join(svg), source)
    write_nb(nb, dest)


def draw_formulas(page):
    "Put drawn formulas where smalldocs leaves TeX to a script from the web."
    def draw(m):
        tex = html.unescape(m[2])
        formula = ziamath.Latex(tex, size=19, color='currentColor', inline=m[1] == 'inline')
        attributes = (f'class="math {m[1]}" role="img" aria-label="{html.escape(tex)}" '
                      f'style="vertical-align: {formula.getyofst():.1f}px"')
        return f'<span {attributes}>{formula.svg()}</span>'
    text = page.read_text(encoding='utf-8')
    text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', draw, text, flags=re.S)
    text = re.sub(r'<link[^>]*katex[^>]*>|<script[^>]*katex[^>]*></script>', '', text)
    page.write_text(text, encoding='utf-8')


def site():
    "Process everything into _proc/, render that, and put the result in the place of _docs/ when it is whole."
    proc, docs = ROOT/'_proc', ROOT/'_docs'
    shutil.rmtree(proc, ignore_errors=True)
    shutil.copytree(ROOT/'nbs', proc, ignore=shutil.ignore_patterns('*.ipynb', '.*'))
    (proc/'sidebar.yml').write_text(re.sub(r'\S+\.ipynb', lambda m: site_path(m[0]), sidebar()), encoding='utf-8')
    for source in sources(): add_page(source, proc)
    if quarto := shutil.which('quarto'): subprocess.run([quarto, 'render', proc], check=True)
    else:
        subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'render', '--strict', proc], check=True)
        for page in (proc/'_docs').rglob('*.html'): draw_formulas(page)
    shutil.rmtree(docs, ignore_errors=True)
    os.replace(proc/'_docs', docs)
    print('the site is in _docs/; its search needs a server: python -m http.server -d _docs')


if __name__ == '__main__': site()
