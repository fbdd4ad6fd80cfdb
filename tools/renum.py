"""Rename notebooks, and keep every link to them right.

python tools/renum.py 15_data=16_data commands/train=commands/training

Each pair is OLD=NEW, both seen from nbs/ and without `.ipynb`. Names may be swapped: all move at once. Links are
corrected in notebooks and pages of the whole repository, and the names as they stand in tests and prose. Afterwards
`make prepare` writes the headers of the modules, the README and the sidebar. The name of a module is `#| default_exp`
in its notebook, which no number changes.
"""
import json, posixpath, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(\]\()(?!\w+:|[#/])([^)\s#]+)')  # a Markdown link with a relative target, up to its anchor


def pages():
    "Every notebook, page, test and tool that git knows, seen from the root."
    command = 'git ls-files *.ipynb *.md tests/*.py tools/*.py'
    found = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=True)
    return found.stdout.split()


def renamed(text, moves):
    "`text` with the names of notebooks that stand in it outside of links."
    return re.sub(r'(?<!\]\()nbs/[\w/]+\.ipynb', lambda m: moves.get(m[0], m[0]), text)


def relinked(text, page, moves):
    "`text` of `page`, which may move too, with links that lead where they led before."
    before, after = posixpath.dirname(page), posixpath.dirname(moves.get(page, page))
    def link(m):
        target = posixpath.normpath(posixpath.join(before, m[2]))
        if target not in moves and before == after: return m[0]
        return m[1] + posixpath.relpath(moves.get(target, target), after or '.')
    return LINK.sub(link, renamed(text, moves))


def rewrite(page, moves):
    "Correct the links and names of one page, in place."
    path = ROOT/page
    before = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb':
        notebook = json.loads(before)
        for cell in notebook['cells']:
            source, change = ''.join(cell['source']), relinked if cell['cell_type'] == 'markdown' else plain
            cell['source'] = change(source, page, moves).splitlines(keepends=True)
        after = json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'
    else: after = (relinked if path.suffix == '.md' else plain)(before, page, moves)
    if after != before: path.write_text(after, encoding='utf-8')


def plain(text, page, moves): return renamed(text, moves)


def main(pairs):
    "Move the notebooks; ends with a sentence if one is missing or in the way."
    moves = {f'nbs/{old}.ipynb': f'nbs/{new}.ipynb' for old, new in (pair.split('=') for pair in pairs)}
    for old, new in moves.items():
        if not (ROOT/old).is_file(): sys.exit(f'there is no {old}')
        if (ROOT/new).exists() and new not in moves: sys.exit(f'{new} is there already')
    for page in pages(): rewrite(page, moves)
    for old in moves: (ROOT/old).rename(ROOT/f'{old}.moving')
    for old, new in moves.items():
        (ROOT/new).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/f'{old}.moving').rename(ROOT/new)
    print(*(f'{old} -> {new}' for old, new in moves.items()), sep='\n')


if __name__ == '__main__':
    if not sys.argv[1:] or not all(pair.count('=') == 1 for pair in sys.argv[1:]): sys.exit(__doc__)
    main(sys.argv[1:])
