"""The notebooks in the order of reading: the site's sidebar and the table of the index.

Both are computed from the first cell of each notebook, its title and the sentence behind `>`, and from the names of
the files. `python tools/contents.py` writes nbs/sidebar.yml.
"""
import ast, json, posixpath, re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DECADES = 'Ground', 'Stories', 'The model', 'Training', 'Generation', 'Ablations', 'Elsewhere', 'Conclusions'
QUESTIONS = 'The questions'  # what the notebooks in ablations/ are, behind the code that they use
COMMANDS = 'Commands'        # nbs/commands/, which uses all that is above it
TUTORIALS = 'Tutorials'      # nbs/tutorials/, which go from a text to what is wanted of it
LESSONS = 'first_model', 'build_it', 'rerun_ablation', 'new_question', 'systems', 'cluster', 'export'  # in this order
ANSWERS = 'What the parts are worth'                    # first on the site: the answers, and then the questions
ABOUT = 'About'                                         # last on the site
PAGES = 'ablations/README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'  # what it holds, seen from the root


def head(path):
    "Title and sentence of a notebook, the sentence empty where there is none."
    cell = json.loads(path.read_text(encoding='utf-8'))['cells'][0]
    found = re.match(r'# (.+)(?:\n+> (.+))?', ''.join(cell['source']))
    if not found: raise ValueError(f'{path}: the first cell has to begin with `# Title`')
    return found[1], found[2] or ''


def questions(root=ROOT):
    "The names of the questions in the order in which they are declared."
    tree = ast.parse((root/'piny'/'ablation.py').read_text(encoding='utf-8'))
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    return [keyword.arg for keyword in assigned['QUESTIONS'].keywords]


def commands(root=ROOT):
    "The modules of commands in the order in which settings.ini names their scripts."
    settings = ConfigParser()
    settings.read_string((root/'settings.ini').read_text(encoding='utf-8'))
    return re.findall(r'commands\.(\w+):', settings['DEFAULT']['console_scripts'])


def ordered(paths, names):
    "Paths in the order of `names`; those without one before the rest, by the alphabet."
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    return sorted(paths, key=lambda p: (place.get(p.stem, -1), p.stem))


def sections(root=ROOT):
    "From the title of each section to its notebooks, in the order of reading."
    nbs = root/'nbs'
    decades = {title: sorted(nbs.glob(f'{i}[0-9]_*.ipynb')) for i, title in enumerate(DECADES)}
    found = {}
    for title, paths in decades.items():
        found[title] = paths
        if title == 'Conclusions':
            found[QUESTIONS] = ordered((root/'ablations').glob('*.ipynb'), questions(root))
    found[COMMANDS] = ordered((nbs/'commands').glob('*.ipynb'), commands(root))
    found[TUTORIALS] = ordered((nbs/'tutorials').glob('*.ipynb'), LESSONS)
    return {title: paths for title, paths in found.items() if paths}


def link(path, root=ROOT):
    "Where a notebook is, seen from nbs/."
    return posixpath.relpath(path.as_posix(), (root/'nbs').as_posix())


def table(root=ROOT):
    "Every notebook with its sentence, as a Markdown table for the index."
    rows = ['| notebook | what it explains |', '|---|---|']
    for title, paths in sections(root).items():
        if title == QUESTIONS: continue  # they have a table of their own
        rows.append(f'| **{title}** | |')
        for path in paths:
            name, sentence = head(path)
            rows.append(f'| [{name}]({link(path, root)}) | {sentence} |')
    return '\n'.join(rows)


def shelves(root=ROOT):
    "From the title of each part of the site to its pages: answers and questions first, then the order of reading."
    rest = sections(root)
    asked = rest.pop(QUESTIONS)
    *further, answers = rest.pop('Conclusions')
    found = {ANSWERS: [answers, *asked, *further], **rest, ABOUT: [root/name for name in PAGES]}
    return {title: paths for title, paths in found.items() if paths}


def sidebar(root=ROOT):
    "The order of the pages as nbdev and Quarto read it."
    lines = ['# Written by tools/contents.py from the notebooks.',
             'website:', '  sidebar:', '    contents:', '      - index.ipynb']
    for title, paths in shelves(root).items():
        lines += [f'      - section: {title}', '        contents:']
        lines += [f'          - {link(path, root).removeprefix("../")}' for path in paths]
    return '\n'.join(lines) + '\n'


def pages(root=ROOT):
    "All pages of the site in the order of its sidebar."
    return [root/'nbs'/'index.ipynb', *(path for paths in shelves(root).values() for path in paths)]


def notebooks(root=ROOT):
    "All of them but the index, in the order of reading."
    return [path for paths in sections(root).values() for path in paths]


if __name__ == '__main__':
    (ROOT/'nbs'/'sidebar.yml').write_text(sidebar(), encoding='utf-8')
