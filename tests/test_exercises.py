"The exercises both ways: solutions pass to the end, and with a blank or a usual mistake the test below it fails."
import json, re

import nbformat
import pytest
import torch
from piny.commands.exercises import BLANK, blanked, is_exercise, main, text_of, tutorial

CELLS = tutorial()['cells']
EXERCISES = [i for i, cell in enumerate(CELLS) if is_exercise(cell)]


def name_of(code): return re.search(r'^(?:class|def) (\w+)', code, re.M)[1]


# what students write: the exercise, what stands in the solution, and what is there instead
MISTAKES = [
    ('RMSNorm', 'x.pow(2)', '(x - x.mean(-1, keepdim=True)).pow(2)'),
    ('RMSNorm', '.mean(-1, keepdim=True)', '.mean()'),
    ('RMSNorm', ' + self.eps', ''),
    ('RMSNorm', ' * self.weight', ''),
    ('rotate', 'a*cos - b*sin, b*cos + a*sin', 'a*cos + b*sin, b*cos - a*sin'),
    ('rotate', 'x.chunk(2, -1)', '(x[..., ::2], x[..., 1::2])'),
    ('rotate', 'first, first + T', '0, T'),
    ('rotate', ' / Dh)', ')'),
    ('attend', 'repeat_interleave(group, 1)', 'repeat(1, group, 1, 1)'),
    ('attend', ' / math.sqrt(q.shape[-1])', ''),
    ('attend', '.masked_fill(future, -math.inf)', ''),
    ('attend', 'triu(S - T + 1)', 'triu(1)'),
    ('Attention', 'rotate(self.heads(self.wk(x)), past.n)', 'self.heads(self.wk(x))'),
    ('Attention', 'v = self.heads(self.wv(x))', 'v = rotate(self.heads(self.wv(x)), past.n)'),
    ('Attention', 'past.n', '0'),
    ('Attention', 'k, v = past', 'past'),
    ('Attention', '.transpose(1, 2).flatten(2)', '.reshape(x.shape)'),
    ('SwiGLU', 'F.silu(self.gate(x)) * self.up(x)', 'self.gate(x) * F.silu(self.up(x))'),
    ('SwiGLU', 'silu', 'gelu'),
    ('Block', 'self.attention_norm(x)', 'x'),
    ('Block', 'self.feedforward_norm(x)', 'self.attention_norm(x)'),
    ('Block', 'x = x + ', 'x = '),
    ('Block', 'return x + ', 'return '),
    ('Block', ', past)', ')'),
    ('loss_of', 'z = z - z.amax(-1, keepdim=True)', 'pass'),
    ('loss_of', '.mean()', '.sum()'),
    ('loss_of', '.log() - right', '.log()'),
    ('lr_at', '(step+1)', 'step'),
    ('lr_at', 'min(1, (step - warmup) / (end - warmup))', '(step - warmup) / (end - warmup)'),
    ('lr_at', '(floor + (1 - floor) * cosine)', 'cosine'),
    ('lr_at', '/ (end - warmup)', '/ end'),
    ('choose', 'if temperature == 0: return int(logits.argmax())', 'pass'),
    ('choose', 'logits / temperature', 'logits * temperature'),
    ('choose', 'before < top_p', 'before + p < top_p'),
    ('choose', 'u * sums[-1]', 'u'),
    ('choose', 'descending=True, ', ''),
    ('Cache', '[self.k, k]', '[k, self.k]'),
    ('Cache', 'self.n = k.shape[2]', 'self.n = 1'),
    ('tell', '[Cache() for _ in model.blocks]', '[Cache()] * len(model.blocks)'),
    ('tell', 'new = [pick(logits)]\n        told += new', 'told.append(pick(logits))\n        new = prompt + told'),
    ('tell', ' and not (told and told[-1] in ends)', '')]


def cells_below(i):
    "The code below an exercise, up to the next exercise or heading: the first cell is its test."
    codes = []
    for cell in CELLS[i+1:]:
        if is_exercise(cell) or cell['source'] and text_of(cell).startswith('##'): break
        if cell['cell_type'] == 'code': codes.append(text_of(cell))
    return codes


def error_of(codes, names):
    "What goes wrong in cells run one after the other; None where nothing does."
    names = dict(names)
    state = torch.get_rng_state()
    try:
        for code in codes: exec(code, names)
    except Exception as e: return e
    finally: torch.set_rng_state(state)


@pytest.fixture(scope='module')
def run():
    "What a run of the solutions ends with; and on its way, the errors of each blank and of each mistake."
    names = {'__name__': '__main__'}
    blanks, mistakes = {}, {}
    for i, cell in enumerate(CELLS):
        if cell['cell_type'] != 'code': continue
        code = text_of(cell)
        if is_exercise(cell):
            name = name_of(code)
            blanks[name] = error_of([blanked(code), cells_below(i)[0]], names)
            for which, right, wrong in MISTAKES:
                if which != name: continue
                assert right in code, f'the solution of {name} has no {right}'
                mistakes[right, wrong] = error_of([code.replace(right, wrong), *cells_below(i)], names)
        exec(code, names)
    return names, blanks, mistakes


def test_solutions_tell_the_story_of_the_shipped_model(run):
    names, *_ = run
    assert names['story'].startswith('Once upon a time, there was')
    assert len(names['told']) > 100


@pytest.mark.parametrize('i', EXERCISES, ids=lambda i: name_of(text_of(CELLS[i])))
def test_each_blank_fails_its_own_test(i, run):
    _, blanks, _ = run
    assert isinstance(blanks[name_of(text_of(CELLS[i]))], NotImplementedError)


@pytest.mark.parametrize('name, right, wrong', MISTAKES)
def test_mistakes_fail(name, right, wrong, run):
    _, _, mistakes = run
    assert mistakes[right, wrong] is not None


def test_every_exercise_has_mistakes():
    assert {name for name, *_ in MISTAKES} == {name_of(text_of(CELLS[i])) for i in EXERCISES}


# -- the copy of a student

@pytest.fixture
def copied(tmp_path):
    "The cells of a copy, as the command writes it; it is a notebook as Jupyter reads it."
    main([str(tmp_path)])
    copy = json.loads((tmp_path/'build_it.ipynb').read_text(encoding='utf-8'))
    nbformat.validate(copy)
    return copy['cells']


def test_a_fresh_copy_fails_at_every_exercise(copied):
    "Run as Jupyter does if it is told to go on after errors."
    names = {'__name__': '__main__'}
    failed = []
    for i, cell in enumerate(copied):
        if cell['cell_type'] != 'code': continue
        try: exec(cell['source'], names)
        except Exception: failed.append(i)
    for i, cell in enumerate(copied):
        if cell['cell_type'] != 'code' or BLANK not in cell['source']: continue
        own = next(j for j in range(i + 1, len(copied)) if copied[j]['cell_type'] == 'code')
        assert i not in failed, 'what is given can be run'
        assert own in failed


def test_a_solved_copy_runs_to_the_end(copied):
    "Solved as by one who unfolds all the solutions and takes them."
    names = {'__name__': '__main__'}
    for cell, after in zip(copied, [*copied[1:], None]):
        if cell['cell_type'] != 'code': continue
        code = cell['source']
        if BLANK in code: code = re.search(r'```python\n(.*)\n```', after['source'], re.S)[1]
        exec(code, names)
    assert names['story'].startswith('Once upon a time, there was')
