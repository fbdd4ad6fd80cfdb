"""The runs behind the numbers: a page for each study that is committed, and a link to it from what it says.

A number becomes a link where the records of a study give it for the variant that is named before it, and not else.
"""
import re, subprocess
from functools import cache

from contents import ROOT
from links import on_the_web
from nbdev.config import get_config
from piny.ablation import QUESTIONS
from piny.comparison import folder_name, record_table, signed
from piny.cost import cost_table, curve, load_studies, of_other_budgets
from piny.files import read_json
from piny.findings import all_findings, sentence
from piny.panels import display_name
from piny.record import load_records

ABOUT = '''All that the study [{study}]({folder}) says comes out of these {n} runs. A difference is that of the runs
with the role *verdict* to those of the [baseline](#baseline). Those with the role *rate* looked for a learning
rate, and *again* is the baseline with other seeds ([more](../plan.html#what-a-run-is-for)). Losses are rounded here,
and whole in each `record.json` and in <a href="../web/{study}-runs.csv">one table</a>.'''
HEADER = '''| role | seed | learning rate | nats a token | bits a byte | steps | status | hardware | commit | |
|---|--:|--:|--:|--:|--:|---|---|---|---|'''


# -- what there is

@cache
def recorded():
    "From each study to its records: what git knows, or all where there is no git."
    command = 'git', 'ls-files', 'results/*/*/record.json'
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    found = map(ROOT.joinpath, listed) if listed else ROOT.glob('results/*/*/record.json')
    return {folder.name: load_records(folder) for folder in sorted({path.parent.parent for path in found})}


@cache
def findings(study):
    "What a study found, by question; nothing where its runs cannot be compared."
    try: return all_findings(recorded()[study])
    except ValueError: return {}


@cache
def comparisons(study):
    "From each variant of a study, and the baseline again, to what was found of it."
    found = {v: c for its in findings(study).values() for v, c in its.comparisons.items()}
    noise = next((its.again for its in findings(study).values()), None)
    return found | ({'again': noise} if noise else {})


def page_of(path):
    "The page of a study's folder, both seen from the root; none for any other path."
    study = path.removeprefix('results/')
    return f'records/{study}.md' if study in recorded() else None


# -- pages

def number(loss):
    "Four decimals, as everywhere; nothing for a run without a loss."
    return f'{loss:.4f}' if loss == loss and loss is not None else ''


def commit(name):
    "A commit as a link; '-dirty' says that the code was changed since."
    if not name: return ''
    sha, _, changed = name.partition('-')
    return f'[{sha[:7]}]({get_config().git_url}/commit/{sha})' + (f', {changed}' if changed else '')


def row(record, its):
    "A run, from its record and its row of `record_table`."
    where = on_the_web(f'results/{record["study"]}/{folder_name(record)}/record.json')
    cells = [its.role, its.seed, f'{its.lr:g}', number(its.val_loss), number(its.val_bpb), f'{its.steps:,}',
             its.status, its.hardware or '', commit(its.git_commit), f'[record]({where})']
    return f'| {" | ".join(map(str, cells))} |'


def variants(records):
    "The variants that have run, in the order in which they are declared; the baseline is first, and again is last."
    declared = ['baseline', *(v for its in QUESTIONS.values() for v in its)]
    return sorted({r['variant'] for r in records},
                  key=lambda v: (v == 'again', declared.index(v) if v in declared else len(declared), v))


def page(study, records):
    "A study as Markdown: what is said of each variant, and a row for each of its runs."
    parts = [f'# Runs of {study}', ABOUT.format(study=study, folder=on_the_web(f'results/{study}'), n=len(records))]
    for variant in variants(records):
        its = [r for r in records if r['variant'] == variant]
        parts.append(f'## {display_name(variant)} {{#{variant}}}')
        if variant in comparisons(study): parts.append(sentence(comparisons(study)[variant]))
        parts.append('\n'.join([HEADER, *map(row, its, record_table(its).itertuples())]))
    return '\n\n'.join(parts) + '\n'


def pages():
    "From the place of each study's page to its title and its Markdown."
    return {page_of(study): (f'Runs of {study}', page(study, records)) for study, records in recorded().items()}


# -- links

X = r'[+−]?\d+\.\d+'
NUMBER = (rf'(?<![\w.±])(?P<number>{X})'
          rf'(?: \[{X}, {X}\]| bits per byte, interval {X} to {X}| to {X})?(?!\w|\.\d)')


@cache
def names():
    "From what a variant is called in a table, a list or a line, to the variant."
    ran = variants(sum(recorded().values(), []))
    return {name: v for v in ran for name in (v, display_name(v))} | {'other seeds': 'again'}


@cache
def tokens():
    "A pattern of names and numbers."
    longest_first = sorted(map(re.escape, names()), key=len, reverse=True)
    return re.compile(rf'(?<!\w)(?P<name>{"|".join(longest_first)})(?=`|</th>|  | came to)|{NUMBER}')


@cache
def at_equal_seconds(study):
    "From each variant of a study that was timed to its difference at equal seconds, as it is written."
    timing = ROOT/'results'/study/'cost.json'
    if not timing.exists(): return {}
    records = recorded()[study]
    budgets = curve(of_other_budgets(records, load_studies()))
    return cost_table(records, read_json(timing), budgets)['at equal seconds'].to_dict()


@cache
def given(study):
    "From each variant of a study to the numbers that its runs gave, as they are written."
    found = {}
    for v, c in comparisons(study).items():
        of_all = [c, c.later] if c.later else [c]
        found[v] = {signed(x) for one in of_all for x in (one.mean, one.low, one.shared)}
    for its in findings(study).values():
        for v, line in its.table().iterrows():
            rates = {f'{r["config"]["train"]["lr"]:g}' for r in its.runs[v].values()}
            found[v] = found.get(v, set()) | rates | {number(line['nats/token']), number(line['bits/byte'])}
    for v, difference in at_equal_seconds(study).items(): found[v].add(difference)
    return found


def numbers(text, studies):
    "Each number in a text that one of the studies gave: where it stands, the study, and the variant."
    variant = None
    for m in tokens().finditer(text):
        if m['name']: variant = names()[m['name']]
        study = next((s for s in studies if m['number'] in given(s).get(variant, ())), None)
        if study: yield m.span(), study, variant


def linked(text, href):
    "`text` with a link at each number that a study gave; `href(study)` is where its page is."
    by_share = sorted(recorded(), key=lambda study: -len([*numbers(text, [study])]))  # most are of one study alone
    for (start, end), study, variant in reversed([*numbers(text, by_share)]):
        text = f'{text[:start]}<a href="{href(study)}#{variant}">{text[start:end]}</a>{text[end:]}'
    return text
