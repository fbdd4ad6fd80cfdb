"Exported models in the hands of the programs they are meant for."
from itertools import islice

import pytest

from piny.checkpoint import load
from piny.generation import generate_batch
from piny.config import Sampling
from piny.gguf import write_gguf
from piny.stories import corpus_splits

ODD = ['', ' ', '  two', 'end ', '\n\t', 'naïve café', '雪 and 🐢', '<s> </s> <unk> <0x41>', '\u200b', 'aaaa' * 9]
PROMPTS = ['Once upon a time', 'Tom and Lily', 'The cat', 'One day, a little girl named Sue', '雪']
F32 = 0 # GGML_TYPE_F32

@pytest.fixture
def llama_cpp():
    "llama.cpp's compiled library."
    library = pytest.importorskip('cyllama.llama.llama_cpp', reason='there is no llama.cpp for this machine; the notebook compares every tensor')
    library.disable_logging()
    return library

def told_by(llama_cpp, llama, prompt, room, max_tokens): # (n,) ids
    "A greedy story."
    params = llama_cpp.LlamaContextParams()
    params.n_ctx, params.type_k, params.type_v, params.n_threads = room, F32, F32, 1
    params.flash_attn_type = 0 # that kind of attention works in half precision
    context, vocab, told = llama_cpp.LlamaContext(model=llama, params=params), llama.get_vocab(), []
    greedy = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
    greedy.add_greedy()
    ids, at = vocab.tokenize(prompt, True, False), 0
    for _ in range(max_tokens):
        context.decode(llama_cpp.llama_batch_get_one(ids, at))
        at, ids = at + len(ids), [greedy.sample(context, -1)]
        if vocab.is_eog(ids[0]): break
        told += ids
    return told

def test_llama_cpp_reads_and_tells_the_same(llama_cpp, tmp_path):
    model, tok = load()
    write_gguf(tmp_path, model, tok)
    llama = llama_cpp.LlamaModel(str(tmp_path/'model.gguf'))
    for text in [*islice(corpus_splits('grammar')[1], 1_000), *ODD]:
        assert llama.get_vocab().tokenize(text, True, False) == [tok.bos_id, *tok.encode(text)], text
    ours = generate_batch(model, tok, PROMPTS, Sampling(temperature=0), max_tokens=200)
    for prompt, told in zip(PROMPTS, ours): assert tok.decode(told_by(llama_cpp, llama, prompt, model.cfg.max_seq_len, 200)) == told
