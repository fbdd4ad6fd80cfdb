"Exported models in the hands of the programs they are meant for."
from dataclasses import replace
from itertools import islice

import pytest

from piny.checkpoint import load
from piny.bpe import train_bpe
from piny.config import PRESETS, Sampling
from piny.generation import generate_batch
from piny.gguf import write_gguf
from piny.llama import pieces_of, tokenizer_of
from piny.model import Transformer
from piny.stories import corpus_splits
from piny.tokenizer import train_tokenizer

ODD = ['', ' ', '  two', 'end ', '\n\t', 'naïve café', '雪 and 🐢', '<s> </s> <unk> <0x41>', '\u200b', 'aaaa' * 9]
PROMPTS = ['Once upon a time', 'Tom and Lily', 'The cat', 'One day, a little girl named Sue', '雪']
F32 = 0  # GGML_TYPE_F32
MAX_TOKENS = 200


@pytest.fixture(scope='module')
def llama_cpp():
    "llama.cpp's compiled library."
    library = pytest.importorskip('cyllama.llama.llama_cpp', reason='there is no llama.cpp for this machine; '
                                                                    'the notebook compares every tensor')
    library.disable_logging()
    return library


@pytest.fixture(scope='module')
def shipped():
    "The model that comes with piny, and its tokenizer."
    return load()


@pytest.fixture(scope='module')
def texts():
    "Stories that the model was not trained on, and odd texts."
    return [*islice(corpus_splits('grammar')[1], 1_000), *ODD]


def opened(llama_cpp, folder, model, tok):
    "The model as llama.cpp has it."
    write_gguf(folder, model, tok)
    return llama_cpp.LlamaModel(str(folder/'model.gguf'))


def context_of(llama_cpp, llama, size):
    "Room for `size` tokens, in which all numbers are fp32."
    params = llama_cpp.LlamaContextParams()
    params.n_ctx = size
    params.type_k = params.type_v = F32
    params.n_threads = 1
    params.flash_attn_type = 0  # that kind of attention works in half precision
    return llama_cpp.LlamaContext(model=llama, params=params)


def told_by(llama_cpp, llama, prompt, size):  # (n,) ids
    "A greedy story."
    context, vocab = context_of(llama_cpp, llama, size), llama.get_vocab()
    greedy = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
    greedy.add_greedy()
    told = []
    at = 0
    ids = vocab.tokenize(prompt, True, False)
    for _ in range(MAX_TOKENS):
        context.decode(llama_cpp.llama_batch_get_one(ids, at))
        at += len(ids)
        ids = [greedy.sample(context, -1)]
        if vocab.is_eog(ids[0]): break
        told += ids
    return told


def test_llama_cpp_cuts_texts_alike(llama_cpp, shipped, texts, tmp_path):
    model, tok = shipped
    llama = opened(llama_cpp, tmp_path, model, tok)
    vocab = llama.get_vocab()  # of no use without the model
    for text in texts: assert vocab.tokenize(text, True, False) == [tok.bos_id, *tok.encode(text)], text


def test_llama_cpp_puts_a_space_where_the_tokenizer_does(llama_cpp, shipped, texts, tmp_path):
    model, tok = shipped
    spaced = tokenizer_of(pieces_of(tok), space_first=True)
    llama = opened(llama_cpp, tmp_path, model, spaced)
    vocab = llama.get_vocab()
    for text in texts: assert vocab.tokenize(text, True, False) == [tok.bos_id, *spaced.encode(text)], text


def test_llama_cpp_cuts_texts_into_the_same_bytes(llama_cpp, texts, tmp_path):
    tok = train_bpe(texts[:300], 700)
    model = Transformer(replace(PRESETS['quick'].model, vocab_size=700))
    llama = opened(llama_cpp, tmp_path, model, tok)
    vocab = llama.get_vocab()
    for text in texts: assert vocab.tokenize(text, True, False) == [tok.bos_id, *tok.encode(text)], text


def test_llama_cpp_cuts_texts_into_the_same_likely_pieces(llama_cpp, texts, tmp_path):
    "All but letters beyond ASCII that have no piece, and the mark of a space, which becomes one."
    tok = train_tokenizer([*texts[:300], *ODD, 'été ' * 500], 700, kind='unigram')
    model = Transformer(replace(PRESETS['quick'].model, vocab_size=700))
    llama = opened(llama_cpp, tmp_path, model, tok)
    vocab = llama.get_vocab()
    lost = {'naïve café', '雪 and 🐢', '\u200b'}
    for text in [*texts, *PROMPTS[:-1], 'cet été', 'A\tB~{}^', 'x' * 300, 'ha' * 200]:
        theirs = vocab.tokenize(text, True, False)
        assert (theirs == [tok.bos_id, *tok.encode(text)]) == (text not in lost), text
        if text in lost: assert 0 in theirs, text
        else: assert vocab.detokenize(theirs) == text.lstrip(), text  # its wrapper strips the first space
    for text in lost: assert vocab.detokenize(tok.encode(text)) == text  # a model may still write them


def test_llama_cpp_tells_the_same_stories(llama_cpp, shipped, tmp_path):
    model, tok = shipped
    llama = opened(llama_cpp, tmp_path, model, tok)
    ours = generate_batch(model, tok, PROMPTS, Sampling(temperature=0), MAX_TOKENS)
    theirs = [told_by(llama_cpp, llama, prompt, model.cfg.max_seq_len) for prompt in PROMPTS]
    assert [tok.decode(ids) for ids in theirs] == ours
