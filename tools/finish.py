"""Add to the rendered pages what they load: the second half of a build, after Quarto or smalldocs has rendered.

`project: post-render` of nbs/_quarto.yml names this file. Pages that smalldocs made are also freed of what they would
fetch from other hosts, since formulas and search need no library.
"""
import base64, hashlib, html, json, os, re, shutil, struct
from functools import partial

import ziamath
from contents import ROOT
from light import light
from pages import PROC, STATIC, seeded
from records import recorded
from piny.checkpoint import load
from piny.comparison import record_table
from piny.findings import compared_all, difference
from piny.record import load_records
from piny.web import kept_models, write_model_script
from piny.weights import read_model

DONE = PROC/'_docs'  # where the pages were rendered


# -- what smalldocs leaves to be loaded

def drawn(m):
    "A formula as a picture, in the place of TeX."
    tex = html.unescape(m[2])
    formula = ziamath.Latex(tex, size=19, color='currentColor', inline=m[1] == 'inline')
    attributes = (f'class="math {m[1]}" role="img" aria-label="{html.escape(tex)}" '
                  f'style="vertical-align: {formula.getyofst():.1f}px"')
    return f'<span {attributes}>{formula.svg()}</span>'


def lazy(m, folder, up):
    "A picture of a page as a file, which is fetched when it comes into sight."
    kind, data = m[1], base64.b64decode(m[2])
    if kind == 'png': data = light(data)
    name = f'{hashlib.sha256(data).hexdigest()[:16]}.{kind}'
    (folder/name).write_bytes(data)
    size = ' width="{}" height="{}"'.format(*struct.unpack('>II', data[16:24])) if kind == 'png' else ''
    return f'src="{up}pictures/{name}"{size} loading="lazy"'


# what a page's parts are called for those who hear it
NAMED = {
    '<nav class="navbar': 'Site', '<nav class="quarto-secondary-nav"': 'Menu', '<nav class="page-navigation"': 'Next',
    '<nav id="quarto-sidebar"': 'Pages', '<nav id="TOC"': 'On this page'}


def finish(page):
    "Draw a page's formulas, make it light, its search one that needs no server, and its menus ones that need no mouse."
    up = '../' * (len(page.relative_to(DONE).parts) - 1)
    text = page.read_text(encoding='utf-8')
    text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', drawn, text, flags=re.S)
    text = re.sub(r'<link[^>]*katex[^>]*>|<script[^>]*(katex|fuse)[^>]*></script>', '', text)
    text = text.replace('class="smalldocs-search"', 'class="site-search" role="search"')
    text = text.replace('class="smalldocs-search-results dropdown-menu"',
                        'class="smalldocs-search-results dropdown-menu" role="status"')
    text = re.sub(r'(data-bs-toggle="collapse"[^>]*) role="navigation"', r'\1 role="button" tabindex="0"', text)
    for nav, name in NAMED.items(): text = text.replace(nav, nav.replace('<nav', f'<nav aria-label="{name}"'))
    pictures = DONE/'pictures'
    pictures.mkdir(exist_ok=True)
    text = re.sub(r'src="data:image/(png|jpeg);base64,([^"]+)"', partial(lazy, folder=pictures, up=up), text)
    text = text.replace('site_libs/bootstrap-icons/bootstrap-icons.min.css', 'static/icons.css')
    script = f'<script src="{up}static/search.js" data-top="{up}"></script>'
    page.write_text(text.replace('</body>', f'{script}</body>'), encoding='utf-8')


def search_index(docs):
    "Make what is searched a script, which a page may also load from a file."
    found = docs/'search.json'
    places = [[e['href'], e['title'], e['section'], e['text']] for e in json.loads(found.read_text(encoding='utf-8'))]
    script = f'searchIndex = {json.dumps(places, ensure_ascii=False)}\n'
    (docs/'search-index.js').write_text(script, encoding='utf-8')
    found.unlink()
    for library in ('fuse', 'bootstrap-icons'): shutil.rmtree(docs/'site_libs'/library)


# -- what pages fetch

def write_models(folder):
    "Write what pages fetch: tables of runs, the model that ships, and those that studies kept."
    write_model_script(folder, *load(), 'stories-1m')
    for study, records in recorded().items(): record_table(records).to_csv(folder/f'{study}-runs.csv', index=False)
    for study, script in seeded().items(): (folder/f'{study}-seeds.js').write_text(script, encoding='ascii')
    for study, kept in kept_models(ROOT/'results').items():
        compared = compared_all(load_records(ROOT/'results'/study))
        for name, path in kept.items():
            said = compared.get(name)
            about = f'{said.verdict}: {difference(said)} bits per byte' if said and said.measured else ''
            write_model_script(folder, *read_model(path), f'{study}-{name}', about)


def copy_static(folder, there):
    "What pages load, but for pages of its own, which are no part of the site."
    shutil.copytree(folder, there, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.html', '.*'))


def finish_all():
    "Finish what was rendered."
    if 'SMALLDOCS' in os.environ:
        for page in DONE.rglob('*.html'): finish(page)
        search_index(DONE)
    for folder, there in STATIC.items():
        if (ROOT/folder).is_dir(): copy_static(ROOT/folder, DONE/there)
    write_models(DONE/'web')


if __name__ == '__main__': finish_all()
