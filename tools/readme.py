"""Write README.md from nbs/index.ipynb, and before that nbs/sidebar.yml and what the index computes.

python tools/readme.py
"""
import posixpath, re

from contents import ROOT, sidebar
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from links import LINK, SVG_LINK, on_the_web, target

INDEX = 'nbs/index.ipynb'
MAP = 'figures/flow.svg'  # the picture that the index computes, as a file that GitHub shows


def text(part):
    "What nbformat keeps as a string or as a list of lines."
    return ''.join(part)


def refresh():
    "Run the cells of the index whose code is not shown: what they print is computed from the repository."
    nb = read_nb(ROOT/INDEX)
    shell = CaptureShell(path=(ROOT/INDEX).parent)
    for cell in nb.cells:
        if cell.cell_type != 'code' or not re.match(r'#\|\s*(hide\b|echo: false)', cell.source): continue
        cell.outputs = shell.run(cell.source)
        if shell.exc: raise shell.exc
        for out in cell.outputs: out.pop('execution_count', None)
    write_nb(nb, ROOT/INDEX)


def output_md(out):
    "A stored output as Markdown."
    data = dict(text=out['text']) if out['output_type'] == 'stream' else out['data']
    if 'text/markdown' in data: return text(data['text/markdown']).strip()
    if 'image/svg+xml' in data:
        picture = SVG_LINK.sub(lambda m: m[1] + on_the_web(target(m[2], INDEX)), text(data['image/svg+xml']))
        (ROOT/MAP).write_text(picture + '\n', encoding='utf-8')
        return f'![How stories become a figure]({posixpath.relpath(MAP, posixpath.dirname(INDEX))})'
    plain = data.get('text', data.get('text/plain'))
    if len(data) > 1 or plain is None:
        raise ValueError(f'README.md takes text, Markdown and SVG; index.ipynb has an output of {", ".join(data)}')
    return f'```text\n{text(plain).rstrip()}\n```'


def cell_md(cell):
    "The Markdown blocks of a cell and its stored outputs; none when it is hidden, or for the site alone."
    if re.match(r'#\|\s*hide\b', cell.source) or 'data-piny=' in cell.source: return
    if cell.cell_type == 'markdown':
        yield cell.source.strip()
        return
    if not re.match(r'#\|\s*echo: false', cell.source): yield f'```python\n{cell.source.strip()}\n```'
    yield from map(output_md, cell.outputs)


def readme():
    "The index as one Markdown page for the root of the repository."
    page = '\n\n'.join(md for cell in read_nb(ROOT/INDEX).cells for md in cell_md(cell))
    return (f'<!-- Made from {INDEX} by `make prepare`: change it there. -->\n\n'
            + LINK.sub(lambda m: m[1] + target(m[2], INDEX), page) + '\n')


if __name__ == '__main__':
    (ROOT/'nbs'/'sidebar.yml').write_text(sidebar(), encoding='utf-8')
    refresh()
    (ROOT/'README.md').write_text(readme(), encoding='utf-8')
