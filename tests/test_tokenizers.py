"The systems that piny answers for, each with the tokenizer that it documents: from a text to data, a model, a story."
import importlib, io, json, shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pandas as pd
import pytest
from piny.checkpoint import checkpoints, load
from piny.config import PRESETS, ModelConfig
from piny.data import Dataset
from piny.grammar import grammar_stories
from piny.model import Transformer
from piny.presets import write_preset
from piny.vocabulary import count_pieces, cut, learn, tokenizer_file
from piny.weights import write_model

TINY = '--steps 4 --eval-every 4 --batch-size 4 --max-seq-len 32 --precision fp32 --compile no'.split()
SMALL = '--dim 32 --n-layers 1 --n-heads 2 --n-kv-heads 2 --hidden-dim 48'.split()
# The built-in stories have too few words for vocabularies of the real sizes.
SYSTEMS = {  # preset -> what piny_data is told, and the size of the vocabulary
    'lm': ('--tokenizer byte_bpe --vocab-size 1000', 1_000),
    'mp-acl': ('--tokenizer unigram --vocab-size 600', 600),
    'pluto-1m': ('--tokenizer byte_bpe --vocab-size 1000 --top-k 800', 800),
    'pluto-15m': ('--tokenizer bpe --vocab-size 1000 --top-k 800', 800)}


def call(command, *args):
    "Exit code and what was said; in this process, since each start of another would take seconds."
    module = importlib.import_module(f'piny.commands.{command}')
    main = getattr(module, dict(export='main_export').get(command, 'main'))
    said = io.StringIO()
    code = 0
    with redirect_stdout(said), redirect_stderr(said):
        try: main([str(arg) for arg in args])
        except SystemExit as e: code = e.code
    return code, said.getvalue()


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokenizers')
    *tales, last, other = grammar_stories(502, seed=0)
    (folder/'tales.txt').write_text('\n<|endoftext|>\n'.join(tales))
    (folder/'real').mkdir()
    for i, story in enumerate((last, other)): (folder/f'real/{i}.txt').write_text(story)
    return folder


def tokenizer_of(kind):
    "One that was learned from the built-in stories."
    stories = list(grammar_stories(300, seed=0))
    whole = learn(stories, kind.removesuffix(', cut'), 450)
    return cut(whole, count_pieces(whole, stories), 350) if kind.endswith('cut') else whole


@pytest.fixture(scope='module')
def trained(room):
    "The data and the run of a preset, made once."
    made = {}

    def of(preset):
        if preset not in made:
            options, size = SYSTEMS[preset]
            code, said = call('data', room/'tales.txt', *options.split(), '--processes', 1,
                              '--name', preset, '--out', room)
            assert code == 0, said
            code, said = call('train', '--preset', preset, '--data', room/preset, '--out', room/f'{preset}-run',
                              '--vocab-size', size, *TINY, *SMALL)
            assert code == 0, said
            made[preset] = room/preset, room/f'{preset}-run', said
        return made[preset]

    return of


@pytest.mark.parametrize('preset', SYSTEMS)
def test_a_system_from_text_to_story(trained, preset):
    data, run, _ = trained(preset)
    tok = Dataset.open(data, check=True).tokenizer
    assert tok.vocab_size == SYSTEMS[preset][1]
    assert tokenizer_file(checkpoints(run)[0]).name == tokenizer_file(data).name
    assert load(run, say=lambda text: None)[1].fingerprint == tok.fingerprint
    code, said = call('generate', '--checkpoint', run, '--prompt', 'Once upon a time', '--max-tokens', 12)
    assert code == 0, said
    assert said.startswith('Once upon a time')


def test_another_kind_of_the_same_size_is_said(trained, room):
    preset = PRESETS['pluto-1m']
    write_preset(room/'own.json', replace(preset, model=replace(preset.model, vocab_size=800)))
    for made, noted in (('pluto-1m', False), ('pluto-15m', True)):
        code, said = call('train', '--preset', room/'own.json', '--data', trained(made)[0],
                          '--out', room/f'own-{made}', *TINY, *SMALL)
        assert code == 0, said
        assert ('made for a tokenizer of the kind byte_bpe, cut, and the data has one of the kind bpe, cut'
                in said) == noted


def test_a_size_of_ones_own_brings_no_note(trained):
    assert 'note:' not in trained('pluto-15m')[2]


def test_another_size_is_refused(trained, room):
    code, said = call('train', '--preset', 'lm', '--data', trained('lm')[0], '--out', room/'wrong', *TINY)
    assert code == 2
    assert 'the data has a vocabulary of 1,000, the model one of 10,000' in said


def test_a_run_may_begin_with_the_weights_of_one_with_the_same_tokenizer(trained, room):
    data, run, _ = trained('pluto-1m')
    code, said = call('train', '--init', run, '--data', data, '--out', room/'again', *TINY)
    assert code == 0, said
    code, said = call('train', '--init', run, '--data', trained('pluto-15m')[0], '--out', room/'other', *TINY)
    assert code == 2
    assert 'another tokenizer' in said


@pytest.mark.parametrize('preset', SYSTEMS)
def test_quality_is_measured_with_every_kind(trained, room, preset, monkeypatch):
    run = trained(preset)[1]
    monkeypatch.chdir(room)  # gets results/ and figures/
    code, said = call('quality', '--checkpoint', run, '--train', room/'tales.txt', '--stories', room/'real',
                      '--name', f'{preset}-quality')
    assert code == 0, said
    rows = pd.read_csv(room/f'results/{preset}-quality/quality.csv')
    bits = rows[rows['set'] == 'real']['bpb']
    assert len(bits) == 2 and bits.between(2, 12).all()  # it has learned nothing: about log2(V) bits a piece


@pytest.mark.parametrize('kind, written', [
    ('bpe', {'hf', 'llama2c', 'gguf'}), ('unigram', {'hf', 'gguf'}), ('byte_bpe', {'hf', 'gguf'}), ('bpe, cut', set()),
    ('unigram, cut', set()), ('byte_bpe, cut', set())])
def test_a_format_that_cannot_hold_a_tokenizer_says_so(tmp_path, kind, written):
    tok = tokenizer_of(kind)
    model = Transformer(ModelConfig(tok.vocab_size, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=48))
    (tmp_path/'checkpoint').mkdir()
    write_model(tmp_path/'checkpoint', model, tok)
    for form in ('hf', 'llama2c', 'gguf', 'piny'):
        out = tmp_path/form
        code, said = call('export', form, '--checkpoint', tmp_path/'checkpoint', '--out', out)
        if form in written | {'piny'}:
            assert code == 0, said
        else:
            assert code == 2 and f'the tokenizer is of the kind {kind};' in said, said
            assert not out.exists()
    assert load(tmp_path/'piny')[1].fingerprint == tok.fingerprint


@pytest.mark.parametrize('preset', ['lm', 'pluto-1m'])
def test_a_tokenizer_that_was_changed_is_found(trained, preset):
    run = trained(preset)[1]
    copy = run.with_name(f'{preset}-changed')
    shutil.copytree(checkpoints(run)[0], copy)
    stored = json.loads((copy/'vocabulary.json').read_text())
    (copy/'vocabulary.json').write_text(json.dumps(stored, indent=3))
    with pytest.raises(ValueError, match='vocabulary.json is damaged'): load(copy)
    (copy/'tokenizer.model').write_bytes(b'')
    with pytest.raises(ValueError, match='which is its tokenizer'): load(copy)
