"Exported models in the hands of the programs they are meant for."
from itertools import islice

import pytest

from piny.checkpoint import load
from piny.generation import Sampling, generate_batch
from piny.gguf import write_gguf
from piny.stories import corpus_splits

ODD = ['', ' ', '  two', 'end ', '\n\t', 'naïve café', '雪 and 🐢', '<s> </s> <unk> <0x41>', '\u200b', 'aaaa' * 9]
PROMPTS = ['Once upon a time', 'Tom and Lily', 'The cat', 'One day, a little girl named Sue', '雪']

def test_llama_cpp_reads_and_tells_the_same(tmp_path):
    llama_cpp = pytest.importorskip('llama_cpp_py_sync', reason='there is no llama.cpp for this machine; the notebook compares every tensor')
    model, tok = load()
    write_gguf(tmp_path, model, tok)
    with llama_cpp.Llama(str(tmp_path/'model.gguf'), n_ctx=model.cfg.max_seq_len, n_threads=1, type_k='f32', type_v='f32') as theirs:
        for text in [*islice(corpus_splits('grammar')[1], 1_000), *ODD]:
            assert theirs.tokenize(text) == [tok.bos_id, *tok.encode(text)], text
        ours = generate_batch(model, tok, PROMPTS, Sampling(temperature=0), max_tokens=200)
        for prompt, told in zip(PROMPTS, ours):
            assert theirs.generate(prompt, max_tokens=200, temperature=0, repeat_penalty=1.) == told
