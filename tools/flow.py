"""The map of the project: how stories become a figure, drawn as SVG. Each box leads to its notebook."""
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent/'nbs'
WIDE, HIGH = 128, 52                    # of a box, in pixels
ACROSS, DOWN = 244, 128                 # from one box to the next
LEFT, TOP = 10, 10
COLORS = dict(stories='#dbe9f6', model='#fde6cf', training='#dcefdc', ablations='#e9e1f2')
STYLE = [
    'text { font-family: sans-serif; text-anchor: middle; fill: #222; }',
    '.name { font-size: 15px; }',
    '.what { font-size: 11.5px; }',
    'a { text-decoration: none; }',
    'rect { stroke: #888; }',
    'a:hover rect { stroke: #000; stroke-width: 2; }',
    'path { fill: none; stroke: #555; stroke-width: 1.3; }']

BOXES = dict( # module: column, row, name, what it is, section
    stories    = (0, 0, 'stories', 'grammar or text', 'stories'),
    tokenizer  = (1, 0, 'tokenizer', 'byte-pair encoding', 'stories'),
    data       = (2, 0, 'token file', 'one row on disk', 'stories'),
    batches    = (3, 0, 'batch', 'of (seed, step)', 'stories'),
    ablation   = (0, 1, 'question', 'variants of a part', 'ablations'),
    model      = (1, 1, 'model', 'a part in each slot', 'model'),
    loss       = (2, 1, 'loss', 'cross-entropy', 'model'),
    optimizer  = (3, 1, 'optimiser', 'AdamW', 'training'),
    evaluation = (0, 2, 'evaluation', 'all held-out stories', 'training'),
    record     = (1, 2, 'record', 'of a finished run', 'training'),
    findings   = (2, 2, 'findings', 'interval and verdict', 'ablations'),
    figures    = (3, 2, 'figure', 'table and words', 'ablations'))

ARROWS = [ # between neighbours: from, to, what passes
    ('stories', 'tokenizer', 'text'),
    ('tokenizer', 'data', 'uint16 row'),
    ('data', 'batches', 'windows'),
    ('ablation', 'model', 'ModelConfig'),
    ('model', 'loss', '(B, T, V)'),
    ('loss', 'optimizer', 'nats'),
    ('evaluation', 'record', 'bits per byte'),
    ('record', 'findings', 'record.json'),
    ('findings', 'figures', 'differences')]


def corner(module):
    "The upper left corner of a box."
    column, row = BOXES[module][:2]
    return LEFT + column * ACROSS, TOP + row * DOWN


def notebook(module):
    "The file of a module's notebook, seen from nbs/, whatever its number."
    return next(NBS.glob(f'[0-9][0-9]_{module}.ipynb')).name


def text(x, y, words, kind):
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def box(module):
    "A box with its name, a word on it, and its link."
    x, y = corner(module)
    *_, name, what, section = BOXES[module]
    middle = x + WIDE // 2
    return '\n'.join([
        f'<a href="{notebook(module)}">',
        f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="6" fill="{COLORS[section]}"/>',
        text(middle, y + 22, name, 'name'),
        text(middle, y + 40, what, 'what'),
        '</a>'])


def arrow(points, words, at):
    "A line through the points with a head at its end, and what passes along it."
    path = ' L '.join(f'{x} {y}' for x, y in points)
    return f'<path d="M {path}" marker-end="url(#head)"/>\n' + text(*at, words, 'what')


def straight(start, end, words):
    "An arrow from a box to the next one in its row."
    x, y = corner(start)
    x += WIDE
    y += HIGH // 2
    to = corner(end)[0]
    return arrow([(x, y), (to - 2, y)], words, ((x + to) // 2, y - 8))


def bent(start, end, words, off, out, into):
    "An arrow from below one box, at `out` from its middle, along a line at `off` to the top or bottom of another."
    (x, y), (to, low) = corner(start), corner(end)
    x += WIDE // 2 + out
    y += HIGH
    to += WIDE // 2 + into
    last = low - 2 if low > y else low + HIGH + 2
    return arrow([(x, y), (x, y + off), (to, y + off), (to, last)], words, ((x + to) // 2, y + off - 8))


def flow():
    "The map as SVG."
    width, height = LEFT * 2 + ACROSS * 3 + WIDE, TOP * 2 + DOWN * 2 + HIGH
    style = ' '.join(f'.flow {rule}' for rule in STYLE)  # by its class: a page holds other pictures
    head = '<path d="M 0 0 L 7 3.5 L 0 7 z" style="fill: #555; stroke: none"/>'
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flow" role="group" viewBox="0 0 {width} {height}" '
        f'width="{width}" style="max-width: 100%; height: auto">',
        '<title>How stories become a figure</title>',
        f'<style>{style}</style>',
        f'<defs><marker id="head" markerWidth="7" markerHeight="7" refX="6" refY="3.5" orient="auto">{head}</marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white" style="stroke: none"/>',
        *[straight(*a) for a in ARROWS],
        bent('batches', 'model', '(B, T)', off=38, out=0, into=0),
        bent('optimizer', 'model', 'new weights', off=30, out=0, into=24),
        bent('model', 'evaluation', 'a model to judge', off=52, out=-24, into=0),
        *[box(module) for module in BOXES],
        '</svg>'])
