"""Every public name of piny with its parameters, what it returns and raises, and where it is written.

What a parameter is stands beside it in the source, in a comment (fastcore's docments). What the same word means all
over piny is said once, here.
"""
import ast, io, re, tokenize
from collections import namedtuple

from contents import ROOT, head, link, sections
from links import on_the_web

Name = namedtuple('Name', 'kind name signature doc params returns line methods')
Param = namedtuple('Param', 'name type default what')

WORDS = dict(  # wherever a parameter has no words of its own
    about='more fields for the record, plain values',
    alive='processes at work',
    args='the words of the command line; none: those that this process was called with',
    at='where the training stands',
    base='the preset that is tuned',
    baseline='the baseline, or its losses by seed',
    batch='how many go side by side, or the name of such a size',
    batch_size='sequences in a batch, `B`',
    bytes_per_token='bytes of text that a token stands for',
    c='a variant against the baseline',
    came='signals that ask to stop, as they come',
    cfg='the configuration, of a model or of a training as its type says',
    change='the fields in which a variant differs from the baseline',
    checkpoint='the folder of a checkpoint',
    checks='runs of the winner and of the preset on fresh seeds',
    claim='what was said',
    command='the command that gets them',
    compiled='whether by `torch.compile`',
    counts='how often each piece was used',
    curve='the loss of the baseline over budgets',
    data='prepared data',
    decided='what `auto` came to on this machine',
    description='what it does, in a sentence',
    design='which runs there are',
    device='where tensors are: `cpu`, or a GPU',
    draws='how often it is drawn anew',
    epoch='passes over the data before this one',
    failed='runs that failed',
    field='the name of a field',
    fig='a figure of matplotlib',
    flops_per_second='operations a second',
    folder='a folder on disk',
    found='what was found',
    generator='the source of chance',
    given='what was typed, by the names of fields',
    has_avx512='whether the processor has vectors of 512 bits',
    header='the first bytes of a file',
    height='of a picture, in inches',
    high='the upper end of an interval, bits per byte',
    how='how tokens are chosen',
    ids='numbers of tokens',
    init='the weights to start from',
    its='what is known of it',
    job='a run that a study asks for',
    jobs='runs that a study asks for',
    keep='newest checkpoints to keep, besides the best; 0: none',
    kept='numbers of the pieces that stay',
    key='the hash of what decides an outcome',
    kind='which kind of tokenizer: `bpe`, `unigram`, `byte_bpe`',
    left='from the left edge, in inches',
    line='a line of a file',
    lines='measurements, a dict for each line of a table',
    lock='a file that one process at a time holds',
    losses="the runs' losses",
    low='the lower end of an interval, bits per byte',
    lr='the peak learning rate',
    margin='differences within it are too small to matter, bits per byte',
    max_seq_len='tokens that the model sees at once, `T`',
    measured='whether there was an evaluation at this step',
    merges='pairs of pieces in the order in which they are joined',
    meta='what is said of prepared data in its `meta.json`',
    missing='names of variants',
    model='a model',
    model_cfg="the model's configuration",
    module='a part of a model',
    n='how many',
    n_pairs='pairs of variants that were compared',
    n_params='parameters of the model',
    name='what it is called',
    objective='a trial to its loss',
    on_trial='called after each trial',
    opt='the optimiser',
    order='what was asked for, as in `run.json`',
    out='the folder that is made',
    part='the unfinished file or folder beside it',
    parts='functions, each of which measures a part',
    path='a file on disk',
    piece='a piece of a tokenizer, as text or bytes',
    pieces='pieces of text, one after the other',
    plan="a study's plan",
    portions='what there is to do, one piece of it after the other',
    precision='in which numbers are held: `fp32`, `bf16`, `fp16`',
    preset='a name in `PRESETS`',
    prints='fingerprints of the data and the tokenizer',
    processes='how many work side by side',
    prompt='how the story begins',
    prompts='how the stories begin',
    question='a name in `QUESTIONS`',
    questions='names in `QUESTIONS`',
    ranges='from each setting to where it is searched',
    ranks='who trains together',
    ratio='the variance of seeds, in units of the residual',
    raw='bytes as they were read',
    record='the record of a finished run',
    records='records of finished runs',
    result='what the last step measured',
    root="the folder that holds it, as `data/` or the repository's",
    rounds='how often it is measured; the best counts',
    row='a row of a table',
    rows='one for each measurement',
    run="a run's folder, or what is known of it while it goes on",
    runs='runs of a study with their losses',
    say='what is called with each sentence for a person',
    scaler='keeps gradients in half precision from vanishing',
    seconds='how long it took, in each round, or may take',
    seed='decides the weights, the batches, or what is drawn',
    seeds='the seeds of the runs',
    shape='the name of a shape of model',
    share='how often, from 0 to 1',
    sizes='numbers of pieces',
    source='the folder that is read',
    special='pieces that are no text, as the end of a story',
    split='`train` or `valid`',
    splits='from `train` and `valid` to stories',
    spread='of runs that differ in their seeds alone, bits per byte',
    state='what a checkpoint knows besides the weights',
    step='steps of the optimiser made, from 0',
    stories='stories as text',
    study='what was asked of which stories, at which size and budget',
    tensors='tensors by their names',
    text='text',
    texts='stories as text',
    title='the name of the corpus',
    tok='a tokenizer',
    tokenizer='a tokenizer',
    tokens='numbers of tokens, in one long row',
    top='from the upper edge, in inches',
    top_k='the most frequent pieces to keep',
    trail='the options that were taken, with their weights',
    train='stories or settings to train with',
    trials='how many are made in all',
    tuning='a search for settings, as it is kept in a folder',
    url='an address on the web',
    valid='stories to validate on',
    value='a value',
    values='numbers',
    variant='the name of a variant',
    verdict='what the interval says, in words',
    vocab='the pieces with their numbers',
    vocab_size='pieces of the tokenizer, `V`',
    way_out='what to do about it',
    weighting='how runs count',
    width='of a picture, in inches',
    within='the range or the choices',
    word='one word',
    words='text, as words',
    work='what was measured, by its first words',
    workers='processes side by side',
    x='numbers, or what goes in',
    y='numbers that belong to those of `x`')


# -- what the source says

def comments(source):
    "From the number of a line to its comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.strip('# ') for t in tokens if t.type == tokenize.COMMENT}


def above(line, lines, said):
    "The comments on lines of their own that go on with what line `line` says."
    while (line := line + 1) in said and lines[line-1].lstrip().startswith('#'): yield said[line]


def params_of(node, lines, said):
    "The parameters of a function, each with the comment on its line; on a shared line the last one has it."
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    plain = [*node.args.posonlyargs, *node.args.args]
    defaults = dict(zip([a.arg for a in plain[::-1]], node.args.defaults[::-1]))
    defaults |= {a.arg: d for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults) if d}
    last = {a.end_lineno: a.arg for a in args}
    end = node.returns.end_lineno if node.returns else node.body[0].lineno - 1
    for a in args:
        if a.arg in ('self', 'cls'): continue
        own = last[a.end_lineno] == a.arg and a.end_lineno in said
        if own and a.end_lineno == end and node.returns: own = False  # it speaks of what is returned
        what = ' '.join([said[a.end_lineno], *above(a.end_lineno, lines, said)]) if own else ''
        default = ast.unparse(defaults[a.arg]) if a.arg in defaults else ''
        yield Param(a.arg, ast.unparse(a.annotation) if a.annotation else '', default, what)


def fields_of(node, lines, said):
    "The fields of a dataclass."
    for item in node.body:
        if not isinstance(item, ast.AnnAssign): continue
        default = ast.unparse(item.value) if item.value else ''
        what = ' '.join([said.get(item.end_lineno, ''), *above(item.end_lineno, lines, said)])
        yield Param(item.target.id, ast.unparse(item.annotation), default, what)


def function(node, lines, said, kind='def'):
    "A function or method as a `Name`."
    params = list(params_of(node, lines, said))
    returns = (ast.unparse(node.returns), said.get(node.returns.end_lineno, '')) if node.returns else ('', '')
    signature = f'{node.name}({ast.unparse(node.args)})' + (f' -> {returns[0]}' if returns[0] else '')
    return Name(kind, node.name, signature, ast.get_docstring(node) or '', params, returns, node.lineno, [])


def klass(node, lines, said):
    "A class as a `Name`: its parameters are those of `__init__`, or its fields."
    functions = {f.name: f for f in node.body if isinstance(f, ast.FunctionDef)}
    is_data = any('dataclass' in ast.unparse(d) for d in node.decorator_list)
    params = []
    if '__init__' in functions: params = list(params_of(functions['__init__'], lines, said))
    elif is_data: params = list(fields_of(node, lines, said))
    methods = [function(f, lines, said) for name, f in functions.items() if not name.startswith('_')]
    bases = ', '.join(ast.unparse(b) for b in node.bases)
    signature = f'{node.name}({bases})' if bases else node.name
    return Name('class', node.name, signature, ast.get_docstring(node) or '', params, ('', ''), node.lineno, methods)


def names(source):
    "The public functions and classes of a module."
    said, lines = comments(source), source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'): yield function(node, lines, said)
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'): yield klass(node, lines, said)


def said_of(param, name):
    "What a parameter is: in its own words, in the sentence of its function, or as it is everywhere."
    if param.what: return param.what
    if re.search(rf'\b{param.name}s?\b', name.doc): return 'as said above'
    if re.search(rf'\b{param.name}\b', name.returns[1]): return name.returns[1]
    return WORDS.get(param.name, '')


def unexplained(source):
    "Parameters of public names of which nothing is said."
    for name in names(source):
        yield from (f'{name.name}({p.name})' for p in name.params if not said_of(p, name))


# -- as pages

def cell(text):
    "Text in a table of Markdown."
    return text.replace('|', '\\|')


def row(param):
    "A parameter as a row of a table; what is empty stays so."
    kind, default = (f'`{cell(text)}`' if text else '' for text in (param.type, param.default))
    return f'| {param.name} | {kind} | {default} | {cell(param.what)} |'


def file_of(module):
    "Where a module is, seen from the root: `commands.train` is `piny/commands/train.py`."
    return f'piny/{module.replace(".", "/")}.py'


def entry(module, name, page):
    "One name: signature, docstring, parameters, methods, and where it is written."
    source = f'{on_the_web(file_of(module))}#L{name.line}'
    found = [f'### {name.name} {{#{module}-{name.name}}}',
             f'```python\n{name.kind} {name.signature}\n```',
             f'{name.doc} [Source]({source}), [explained]({page}).']
    rows = [row(p._replace(what=said_of(p, name))) for p in name.params]
    if name.returns[1]: rows.append(row(Param('returns', name.returns[0], '', name.returns[1])))
    if rows: found.append('\n'.join(['| name | type | default | what it is |', '|---|---|---|---|', *rows]))
    found += [f'- `.{m.signature}`: {m.doc}' for m in name.methods if m.doc]
    return '\n\n'.join(found)


def module_of(path):
    "The module that a notebook exports; none for a page without one."
    found = re.search(r'#\|\s*default_exp\s+([\w.]+)', path.read_text(encoding='utf-8'))
    return found[1] if found else None


def pages():
    "From the place of each page of the reference, one for each section of notebooks, to its title and its Markdown."
    made = {}
    for section, paths in sections().items():
        parts = []
        for path in paths:
            module = module_of(path)
            if not module: continue
            source = (ROOT/file_of(module)).read_text(encoding='utf-8')
            page = '../' + re.sub(r'(^|/)\d+_', r'\1', link(path)).replace('.ipynb', '.html')
            found = [entry(module, name, page) for name in names(source)]
            if found: parts += [f'## piny.{module}', head(path)[1], *found]
        title = f'Reference: {section}'
        slug = section.lower().replace(' ', '-')
        if parts: made[f'reference/{slug}.md'] = title, '\n\n'.join([f'# {title}', *parts]) + '\n'
    return made
