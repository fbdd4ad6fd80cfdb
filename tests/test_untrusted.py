"Files from anywhere: thousands of damaged or hostile ones are refused with a message, or make a model, and nothing else."
import json, multiprocessing as mp, os, pickle, random, re, resource, shutil, signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
N = 500 # mutants of each file
MEMORY = 2**28 # bytes that a reader may take for a model of a few kilobytes

class Bomb:
    "Leaves a trace if it is ever unpickled."
    def __reduce__(self): return os.mkdir, ('executed',)

EXTREMES = [b'\xff'*4, b'\x7f'*4, b'\0'*4, b'\xff\xff\xff\x7f', b'\0\0\0\x80', b'\xff'*8,
            b'\0\0\0\0\xff\xff\xff\x7f', b'\x01\0\0\0']
NUMBERS = ['-1', '0', '1e400', '999999999999', '9'*30, 'null', '"x"', '[]', '{}', 'true', '0.5', 'NaN',
           '131072', '['*5_000]

def mutant(good, rng):
    "The bytes with something wrong; most often near the beginning, where headers are."
    at = rng.randrange(min(len(good), rng.choice((30, 300, len(good)))))
    n = rng.choice((1, 4, 100))
    kind = rng.randrange(9)
    if kind == 0: return good[:at]
    if kind == 1: return good + rng.randbytes(n)
    if kind == 2: return good[:at] + rng.randbytes(n) + good[at+n:]
    if kind == 3: return good[:at] + good[at+n:]
    if kind == 4: return good[:at] + good[at:at+n]*2 + good[at+n:]
    if kind == 5:
        extreme = rng.choice(EXTREMES)
        return good[:at//4*4] + extreme + good[at//4*4 + len(extreme):]
    if kind == 6: return rng.choice((b'', rng.randbytes(n), pickle.dumps(Bomb()), pickle.dumps(Bomb()) + good))
    numbers = list(re.finditer(rb'(?<=[:\[, ])\d+(?=[,\]}\s])', good[:5_000])) # of JSON
    if not numbers: return good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at+1:]
    where = rng.choice(numbers)
    return good[:where.start()] + rng.choice(NUMBERS).encode() + good[where.end():]

def function(name):
    "A reader, in the process that calls it; `module:function` of piny."
    import importlib
    module, function = name.split(':')
    return getattr(importlib.import_module(f'piny.{module}'), function)

def limit(memory):
    "This process may take so many bytes more than it has."
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, -1))

def read_all(reader, folder, name, seed):
    "Read `N` mutants of a file and use what can be read; returns how many were refused, and what went wrong."
    from piny.config import Sampling
    from piny.generation import generate_batch
    read = function(reader)
    path = Path(folder)/name
    rng = random.Random(seed)
    os.chdir(folder)
    limit(MEMORY)
    good = path.read_bytes()
    refused, wrong = 0, []
    for i in range(N):
        bad = mutant(good, rng)
        path.write_bytes(bad)
        try: generate_batch(*read(Path(folder)), ['a'], Sampling(temperature=0), max_tokens=2)
        except (ValueError, FileNotFoundError) as e:
            refused += 1
            if not str(e) or '\n' in str(e).strip(): wrong.append(f'mutant {i} of {name}: message {str(e)!r}')
        except BaseException as e: wrong.append(f'mutant {i} of {name}: {type(e).__name__}: {e} {bad[:60]!r}')
    path.write_bytes(good)
    if (Path(folder)/'executed').exists(): wrong.append('something was executed')
    return refused, wrong

def read_within(reader, folder, memory, seconds):
    "What a reader says of a folder, with so much memory and time."
    def too_long(number, frame): raise TimeoutError
    read = function(reader)
    limit(memory)
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try: read(Path(folder))
    except (ValueError, FileNotFoundError) as e: return f'refused: {e}'
    except BaseException as e: return repr(e)
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

@pytest.fixture(scope='module')
def reader():
    "A process whose memory can be limited."
    with ProcessPoolExecutor(1, mp.get_context('spawn')) as pool: yield pool

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A tiny model in every format that is read."
    from piny.checkpoint import save
    from piny.config import ModelConfig, TrainConfig
    from piny.grammar import grammar_stories
    from piny.huggingface import write_hf
    from piny.llama2c import write_llama2c
    from piny.model import Transformer
    from piny.optimizer import make_optimizer
    from piny.tokenizer import train_tokenizer
    from piny.vocabulary import count_pieces, cut, learn
    from piny.weights import write_model
    def cut_to(tok, k): return cut(tok, count_pieces(tok, grammar_stories(100, seed=0)), k)
    root = tmp_path_factory.mktemp('untrusted')
    tok = train_tokenizer(grammar_stories(100, seed=0), 320)
    model = Transformer(ModelConfig(vocab_size=320, dim=8, n_layers=1, n_heads=2, n_kv_heads=1,
                                    hidden_dim=16, max_seq_len=16))
    for name, write in dict(piny=write_model, hf=write_hf, llama2c=write_llama2c).items():
        (root/name).mkdir()
        write(root/name, model, tok)
    byte = learn(grammar_stories(100, seed=0), 'byte_bpe', 320)
    kinds = dict(byte=byte, cut=cut_to(tok, 300), cutbyte=cut_to(byte, 300))
    for name, tokenizer in kinds.items():
        (root/name).mkdir()
        shape = replace(model.cfg, vocab_size=tokenizer.vocab_size)
        write_model(root/name, Transformer(shape), tokenizer)
    cfg = TrainConfig()
    for step in (1, 2):
        state = dict(step=step, val_loss=float(step), losses=[], metrics=[], fingerprints={}, scaler={})
        save(root/'run', model, make_optimizer(model, cfg), cfg, tok, state)
    shutil.copytree(root/'hf', root/'hf-json')
    (root/'hf-json'/'tokenizer.model').unlink()
    (root/'llama2c'/'tokenizer.model').unlink()
    return root

READERS = dict(run='checkpoint:load', piny='weights:read_model', hf='huggingface:read_hf',
               byte='weights:read_model', cut='weights:read_model', cutbyte='weights:read_model',
               llama2c='llama2c:read_llama2c')
FILES = [('byte', 'vocabulary.json'), ('cut', 'vocabulary.json'), ('cutbyte', 'vocabulary.json'),
         ('piny', 'config.json'), ('piny', 'model.safetensors'), ('piny', 'tokenizer.model'),
         ('hf', 'config.json'), ('hf', 'model.safetensors'), ('hf-json', 'tokenizer.json'),
         ('llama2c', 'model.bin'), ('llama2c', 'tokenizer.bin'), ('run/step-00000001', 'state.json')]

def reader_of(folder): return READERS[re.match(r'\w+', folder)[0]]

@pytest.mark.parametrize('folder, name', FILES)
def test_mutants_are_refused_or_read(folder, name, folders, reader):
    refused, wrong = reader.submit(read_all, reader_of(folder), str(folders/folder), name, seed=0).result()
    assert not wrong, wrong[:5]
    assert N//10 < refused

def test_a_damaged_state_hides_no_other_checkpoint(folders):
    "Every mutant of one state leaves the run readable: the other checkpoint is there."
    from piny.checkpoint import load
    path, rng = folders/'run'/'step-00000001'/'state.json', random.Random(1)
    good = path.read_bytes()
    with redirect_stderr(StringIO()):
        for _ in range(100):
            path.write_bytes(mutant(good, rng))
            load(folders/'run')
    path.write_bytes(good)

@pytest.mark.parametrize('folder, name', FILES)
def test_what_is_no_plain_file_is_refused(folder, name, folders, reader):
    "A pipe in place of any file hangs nobody, and a device fills no memory."
    path = folders/folder/name
    good = path.read_bytes()
    for make in (os.mkfifo, lambda path: path.symlink_to('/dev/zero')):
        path.unlink()
        make(path)
        said = reader.submit(read_within, reader_of(folder), str(folders/folder), MEMORY, seconds=20).result()
        path.unlink()
        path.write_bytes(good)
        assert said.startswith('refused') and name in said and 'plain file' in said, said

@pytest.mark.parametrize('name', ['record.json', 'metrics.jsonl'])
def test_a_damaged_run_in_a_study(name, tmp_path):
    "Every mutant of a record or of its metrics is refused with its folder, or can be compared and put into words."
    from piny.findings import Findings
    from piny.record import load_records
    for path in (ROOT/'results'/'tinystories-250k').iterdir():
        if path.name.split('-')[0] in ('baseline', 'layernorm'): shutil.copytree(path, tmp_path/path.name)
    victim = min(tmp_path.iterdir())
    good = (victim/name).read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(N//2):
        bad = mutant(good, rng)
        (victim/name).write_bytes(bad)
        try:
            found = Findings('norm', load_records(tmp_path))
            found.table()
            found.words()
        except ValueError as e:
            refused += 1
            assert victim.name in str(e), (str(e), bad)
    assert N//10 < refused

@pytest.mark.parametrize('folder', ['piny', 'hf', 'llama2c'])
def test_many_layers_in_few_bytes(folder, folders, tmp_path, reader):
    "Twenty thousand layers of two channels fit into megabytes, and are refused before a model is made of them."
    from piny.llama2c import HEADER
    shutil.copytree(folders/folder, tmp_path/folder)
    layers = 20_000
    shape = dict(piny=dict(dim=2, n_heads=1, n_kv_heads=1, hidden_dim=1, n_layers=layers),
                 hf=dict(hidden_size=2, num_attention_heads=1, num_key_value_heads=1, head_dim=2,
                         intermediate_size=1, num_hidden_layers=layers))
    if folder == 'llama2c': # of the size that its header asks for
        numbers = 320*2 + layers*(2 + 4 + 4 + 4 + 4 + 2 + 2 + 2 + 2) + 2 + 2*16
        (tmp_path/folder/'model.bin').write_bytes(HEADER.pack(2, 1, layers, 1, 1, 320, 16) + bytes(4*numbers))
    else:
        path = tmp_path/folder/'config.json'
        stored = json.loads(path.read_text())
        (stored['model'] if folder == 'piny' else stored).update(shape[folder])
        path.write_text(json.dumps(stored))
        (tmp_path/folder/'model.safetensors').write_bytes(bytes(4_000_000))
    said = reader.submit(read_within, READERS[folder], str(tmp_path/folder), 2**26, seconds=20).result()
    assert 'n_layers is 20,000' in said, said
