"Files from anywhere: thousands of damaged or hostile ones are refused with a message, or make a model, and nothing else."
import json, multiprocessing as mp, os, pickle, random, re, resource, shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

N = 500 # mutants of each file
MEMORY = 2**28 # bytes that a reader may take for a model of a few kilobytes

class Bomb:
    "Leaves a trace if it is ever unpickled."
    def __reduce__(self): return (os.mkdir, ('executed',))

EXTREMES = [b'\xff'*4, b'\x7f'*4, b'\0'*4, b'\xff\xff\xff\x7f', b'\0\0\0\x80', b'\xff'*8, b'\0\0\0\0\xff\xff\xff\x7f', b'\x01\0\0\0']
NUMBERS = ['-1', '0', '1e400', '999999999999', '9'*30, 'null', '"x"', '[]', '{}', 'true', '0.5', 'NaN', '131072', '['*5_000]

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
    if kind == 5: e = rng.choice(EXTREMES); return good[:at//4*4] + e + good[at//4*4+len(e):]
    if kind == 6: return rng.choice((b'', rng.randbytes(n), pickle.dumps(Bomb()), pickle.dumps(Bomb()) + good))
    numbers = list(re.finditer(rb'(?<=[:\[, ])\d+(?=[,\]}\s])', good[:5_000])) # of JSON
    if not numbers: return good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at+1:]
    where = rng.choice(numbers)
    return good[:where.start()] + rng.choice(NUMBERS).encode() + good[where.end():]

def read_all(reader, folder, name, seed):
    "Read `N` mutants of a file and use what can be read; returns how many were refused, and what went wrong."
    import importlib
    from piny.generation import generate_batch
    from piny.config import Sampling
    module, function = reader.split(':')
    read, path, rng = getattr(importlib.import_module(f'piny.{module}'), function), Path(folder)/name, random.Random(seed)
    os.chdir(folder)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, -1))
    good, refused, wrong = path.read_bytes(), 0, []
    for i in range(N):
        path.write_bytes(bad := mutant(good, rng))
        try: generate_batch(*read(Path(folder)), ['a'], Sampling(temperature=0), max_tokens=2)
        except (ValueError, FileNotFoundError) as e:
            refused += 1
            if not str(e) or '\n' in str(e).strip(): wrong.append(f'mutant {i} of {name}: message {str(e)!r}')
        except BaseException as e: wrong.append(f'mutant {i} of {name}: {type(e).__name__}: {e} {bad[:60]!r}')
    path.write_bytes(good)
    if (Path(folder)/'executed').exists(): wrong.append('something was executed')
    return refused, wrong

@pytest.fixture(scope='module')
def reader():
    "A process whose memory can be limited."
    with ProcessPoolExecutor(1, mp.get_context('spawn')) as pool: yield pool

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A tiny model in every format that is read."
    from piny.config import ModelConfig
    from piny.grammar import grammar_stories
    from piny.huggingface import write_hf
    from piny.llama2c import write_llama2c
    from piny.model import Transformer
    from piny.tokenizer import train_tokenizer
    from piny.weights import write_model
    root = tmp_path_factory.mktemp('untrusted')
    tok = train_tokenizer(grammar_stories(100, seed=0), 320)
    model = Transformer(ModelConfig(vocab_size=320, dim=8, n_layers=1, n_heads=2, n_kv_heads=1, hidden_dim=16, max_seq_len=16))
    for name, write in dict(piny=write_model, hf=write_hf, llama2c=write_llama2c).items():
        (root/name).mkdir()
        write(root/name, model, tok)
    for step in (1, 2): # a run, of which the best checkpoint is looked for
        shutil.copytree(root/'piny', root/'run'/f'step-{step:08}')
        (root/'run'/f'step-{step:08}'/'state.json').write_text(json.dumps(dict(step=step, val_loss=float(step))))
    shutil.copytree(root/'hf', root/'hf-json')
    (root/'hf-json'/'tokenizer.model').unlink()
    return root

READERS = dict(run='checkpoint:load', piny='weights:read_model', hf='huggingface:read_hf', llama2c='llama2c:read_llama2c')
FILES = [('piny', 'config.json'), ('piny', 'model.safetensors'), ('piny', 'tokenizer.model'), ('hf', 'config.json'), ('hf', 'model.safetensors'),
         ('hf-json', 'tokenizer.json'), ('llama2c', 'model.bin'), ('llama2c', 'tokenizer.bin'), ('run', 'step-00000001/state.json')]

@pytest.mark.parametrize('folder, name', FILES)
def test_mutants_are_refused_or_read(folder, name, folders, reader):
    refused, wrong = reader.submit(read_all, READERS[folder.split('-')[0]], str(folders/folder), name, seed=0).result()
    assert not wrong, wrong[:5]
    assert N//10 < refused
