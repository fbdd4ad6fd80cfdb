"One idea a line: how code, tests and prose are set, each check with a case that it must refuse."
import ast, io, json, re, tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 120  # characters; 100 is the aim
FILES = sorted(p for pattern in ('nbs/**/*.ipynb', 'ablations/*.ipynb', 'piny/**/*.py', 'tests/*.py', 'tools/*.py',
                                 '[!R]*.md', 'ablations/*.md')  # README.md is made of nbs/index.ipynb
               for p in ROOT.glob(pattern)
               if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts))


def pieces(path):
    "Code and prose of a file: whether it is code, where it begins, and the text."
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb':
        yield path.suffix == '.py', '', text
        return
    for i, cell in enumerate(json.loads(text)['cells']):
        yield cell['cell_type'] == 'code', f'[{i}]', ''.join(cell['source'])


def python(cell):
    "The code of a cell without what is for IPython and nbdev: magics, the `;` that ends a cell without output, the export."
    code = re.sub(r'^(\s*)[%!].*', r'\1pass', cell, flags=re.M)
    code = re.sub(r'^import nbdev; (?=nbdev\.nbdev_export\(\))', '', code, flags=re.M)
    return re.sub(r';(?=\s*(#.*)?\s*\Z)', '', code)


# -- width

def in_strings(code):
    "How many characters of each line of code are inside of strings, by its number from 1."
    lines = code.splitlines()
    inside = dict.fromkeys(range(1, len(lines) + 1), 0)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type != tokenize.STRING and not tokenize.tok_name[token.type].startswith('FSTRING'): continue
        (first, start), (last, end) = token.start, token.end
        for n in range(first, last + 1):
            inside[n] += (end if n == last else len(lines[n-1])) - (start if n == first else 0)
    return inside


def wide_code(code):
    "Numbers of lines that are too wide and not mostly a string."
    inside = in_strings(code)
    return [n for n, line in enumerate(code.splitlines(), 1) if len(line) > LIMIT and inside[n] <= len(line)/2]


def wide_prose(text):
    "Numbers of lines that are too wide: links by their words, and no tables, formulas or sentence below a title."
    for n, line in enumerate(text.splitlines(), 1):
        shown = re.sub(r'\]\([^)]*\)', ']()', line)
        if len(shown) > LIMIT and not line.startswith(('|', '> ', '![', '$$')): yield n


# -- one statement a line

def semicolons(code):
    "Numbers of lines with a semicolon."
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return sorted({t.start[0] for t in tokens if t.type == tokenize.OP and t.string == ';'})


def form(node):
    "The shape of an expression without its names and values: alike for `f(x)` and `g(y)`."
    return re.sub(r"(id|attr|arg|value)='?[^',()]*'?", r'\1', ast.dump(node))


def packed(code):
    "Numbers of lines that assign three or more unrelated values at once; those alike in form are related."
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple): continue
        unpacks = any(isinstance(target, ast.Tuple) for target in node.targets)
        if unpacks and len(node.value.elts) > 2 and len({form(value) for value in node.value.elts}) > 1:
            yield node.lineno


CHECKS = {
    f'is wider than {LIMIT}': wide_code,
    'has a semicolon': semicolons,
    'assigns three or more unrelated values': packed}


def faults(path):
    "What is not set as it should be, line by line."
    for is_code, cell, text in pieces(path):
        if not is_code:
            found = [(n, f'is wider than {LIMIT}') for n in wide_prose(text)]
        else:
            if cell: text = python(text)
            found = [(n, what) for what, check in CHECKS.items() for n in check(text)]
        yield from (f'{path.relative_to(ROOT)}{cell}, line {n}, {what}' for n, what in sorted(found))


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_one_idea_a_line(path):
    found = list(faults(path))
    assert not found, '\n'.join(found)


# -- what the checks refuse, and what not

LONG = 'x' * LIMIT


def test_wide_code_is_found():
    assert wide_code(f'a = 1\n{LONG} = 1') == [2]
    assert wide_code(f'f({LONG}, "{LONG[:90]}")') == [1]
    assert wide_code(f'def f():  # {LONG}\n    pass') == [1]


def test_a_line_that_is_mostly_a_string_may_be_wide():
    assert not wide_code(f'a = "{LONG}"')
    assert not wide_code(f'raise ValueError(f"{LONG} {{a}}")')
    assert not wide_code(f'"""A text.\n{LONG}\n"""')


def test_wide_prose_is_found():
    words = 'word ' * 25
    assert list(wide_prose(f'short\n{words}')) == [2]
    assert list(wide_prose(f'[{words}](20_norm.ipynb)')) == [1]
    assert list(wide_prose(f'a `|` in {words}')) == [1]


def test_tables_formulas_links_and_pictures_may_be_wide():
    assert not list(wide_prose(f'| a | {LONG} |'))
    assert not list(wide_prose(f'$${LONG}$$'))
    assert not list(wide_prose(f'[a paper](https://example.org/{LONG})'))
    assert not list(wide_prose(f'![A picture of {LONG}](a.svg)'))
    assert not list(wide_prose(f'> One sentence, which nbdev reads from one line. {LONG}'))


def test_semicolons_are_found():
    assert semicolons('a = 1; b = 2\nif a: b; c\nplot();') == [1, 2, 3]
    assert not semicolons('a = ";"  # b; c\n"""d;\n"""')


def test_packed_assignments_are_found():
    assert list(packed('a = 1\nseq_len, device, rows = cfg.max_seq_len, wte.weight.device, []')) == [2]
    assert list(packed('self.a, self.b, self.c = f(x), None, {}')) == [1]


def test_related_values_may_be_assigned_at_once():
    assert not list(packed('B, T, D = 2, 3, 4'))
    assert not list(packed('q, k, v = wq(x), wk(x), wv(x)'))
    assert not list(packed('a, b = b, a + b'))
    assert not list(packed('a, b, c = text.split()'))
    assert not list(packed('shape = n, d, []'))


def test_what_is_for_ipython_is_not_code():
    assert python('%matplotlib inline;\nx\n    !ls;') == 'pass\nx\n    pass'
    assert python('a = 1;\nplot();') == 'a = 1;\nplot()'
    assert python('f();  # for its effect\n') == 'f()  # for its effect\n'
    assert python('import nbdev; nbdev.nbdev_export()') == 'nbdev.nbdev_export()'
