"The page that `piny_export web` writes, in a real browser: from a file and below any path, by mouse and by keyboard."
import json
from importlib.resources import files

import pytest
from test_site import PHONE, WIDTH, browser, page, served  # noqa: F401, fixtures; skips without a browser

from axe_playwright_python.sync_playwright import Axe
from piny.checkpoint import load
from piny.config import Sampling
from piny.generation import generate
from piny.comparison import signed
from piny.seeds import first_seeds, study_values
from piny.statistics import compare_all
from piny.web import pair, write_model_script, write_parts, write_web

WORDS = '.piny-story [role=button]:not([hidden])'


@pytest.fixture(scope='module')
def shipped(): return load()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, shipped):
    folder = tmp_path_factory.mktemp('site')/'some where'
    folder.mkdir()
    write_web(folder, *shipped)
    return folder


@pytest.fixture
def opened(page, folder):  # noqa: F811
    "The page from a file; afterwards, that it was silent."
    said = []
    page.on('console', lambda m: said.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: said.append(str(e)))
    page.on('requestfailed', lambda r: said.append(r.url))
    page.goto(f'file://{folder}/index.html')
    yield page
    assert not said


def tell(page, press='Tell'):  # noqa: F811
    "Press a button, and wait until nothing is told any more; returns the words after the opening."
    page.get_by_role('button', name=press, exact=True).click()
    return told(page)


def told(page):  # noqa: F811
    page.wait_for_function("/\\d tokens/.test(document.querySelector('.piny-status').textContent)")
    page.wait_for_function("document.querySelector('.piny-status').textContent.includes('its end')")
    *story, end = words(page)
    assert end == ' ∎'
    return story


def words(page): return page.locator(WORDS).all_text_contents()  # noqa: F811


def slide(page, name, value):  # noqa: F811
    page.get_by_label(name, exact=True).fill(str(value))


def test_it_tells_the_story_that_piny_tells(opened, shipped):
    slide(opened, 'temperature', 0)
    opened.get_by_label('How the story begins').fill('The cat jumped on the')
    page_tells = ''.join(tell(opened))
    assert page_tells == ''.join(generate(*shipped, 'The cat jumped on the', Sampling(temperature=0)))


def test_it_is_loaded_when_it_is_asked_for_below_any_path(page, folder):  # noqa: F811
    server, address = served(folder.parent)
    asked = []
    page.on('request', lambda r: asked.append(r.url))
    page.goto(f'{address}/some%20where/index.html')
    assert not any(url.endswith('model.js') for url in asked)
    assert tell(page)
    assert sum(url.endswith('model.js') for url in asked) == 1
    assert all(url.startswith((address, 'data:')) for url in asked)
    server.shutdown()


def test_a_story_comes_back_with_its_seed(opened):
    first = tell(opened)
    opened.get_by_label('Seed').fill('1')
    assert tell(opened) != first
    opened.get_by_label('Seed').fill('0')
    assert tell(opened) == first


def test_another_word_is_taken_and_the_story_goes_on_from_there(opened):
    first = tell(opened)
    opened.locator(WORDS).nth(5).click()
    assert opened.locator('.piny-choices [aria-current=true]').count() == 1
    other = opened.locator('.piny-choices button:not([aria-current=true])').first
    label = other.locator('.piny-word').text_content()
    other.click()
    second = told(opened)
    assert second[:5] == first[:5]
    assert second[5].replace(' ', '␣') == label != first[5].replace(' ', '␣')


def test_words_one_by_one(opened):
    opened.get_by_role('button', name='One word').click()
    opened.wait_for_selector(WORDS)
    n = len(words(opened))
    opened.get_by_role('button', name='One word').click()
    assert len(words(opened)) == n + 1
    opened.locator('.piny-choices button').first.click()
    assert len(words(opened)) == n + 2
    n_tokens = opened.locator('.piny-token:not([hidden])').count() - 1  # the last one stands for what follows
    assert f'{n_tokens} of at most 512 tokens' in opened.locator('.piny-panels').text_content()


def test_what_each_cut_takes_is_said(opened):
    opened.get_by_role('button', name='One word').click()
    slide(opened, 'top-p', 1)
    slide(opened, 'top-k', 2)
    opened.wait_for_function("document.querySelectorAll('.piny-by')[2]?.textContent === 'top-k'")
    assert opened.locator('.piny-by').all_text_contents()[:2] == ['', '']
    assert 'top-k takes 2,046 of 2,048 tokens' in opened.locator('.piny-panels').text_content()
    slide(opened, 'top-k', 0)
    assert 'Nothing is cut' in opened.locator('.piny-panels').text_content()


def test_a_head_is_chosen(opened):
    tell(opened)
    opened.get_by_role('button', name='layer 2, head 3,').click()
    assert 'Head 3 of layer 2 looks most at' in opened.locator('.piny-panels').text_content()
    shares = opened.locator('.piny-token').evaluate_all("all => all.map(e => Number(e.style.getPropertyValue('--w')))")
    assert max(shares) == 1
    assert min(shares) < .5


def test_by_keyboard_alone(opened):
    focused = 'document.activeElement.textContent'
    opened.keyboard.press('Tab')
    opened.keyboard.press('Tab')
    assert opened.evaluate(focused) == 'Tell'
    opened.keyboard.press('Enter')
    first = told(opened)
    opened.locator('.piny-story [tabindex="0"]').focus()
    for _ in range(3): opened.keyboard.press('ArrowLeft')
    assert opened.evaluate(focused) == first[-3]
    opened.keyboard.press('Tab')
    assert opened.evaluate('document.activeElement.closest("ol").className') == 'piny-choices'


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_nothing_serious_is_found_in_a_theme(page, folder, scheme):  # noqa: F811
    server, address = served(folder)
    page.emulate_media(color_scheme=scheme)
    page.goto(f'{address}/index.html')
    tell(page)
    found = [v['id'] for v in Axe().run(page).response['violations'] if v['impact'] in ('serious', 'critical')]
    server.shutdown()
    assert not found


def test_a_theme_may_be_named(opened):
    color = "getComputedStyle(document.querySelector('.piny')).backgroundColor"
    light = opened.evaluate(color)
    opened.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert opened.evaluate(color) != light


def test_a_phone_is_wide_enough(opened):
    opened.set_viewport_size(PHONE)
    tell(opened)
    assert opened.evaluate(WIDTH) <= PHONE['width']


def test_a_model_that_is_not_there_is_named(page, folder, tmp_path):  # noqa: F811
    for path in folder.iterdir():
        if path.name != 'model.js': (tmp_path/path.name).write_bytes(path.read_bytes())
    page.goto(f'file://{tmp_path}/index.html')
    page.get_by_role('button', name='Tell').click()
    page.wait_for_function("document.querySelector('.piny-status').textContent.includes('model.js could not be loaded')")


def test_two_models_tell_side_by_side(page, tmp_path, shipped):  # noqa: F811
    write_parts(tmp_path)
    for name in ('baseline', 'no_rope', 'gelu'): write_model_script(tmp_path, *shipped, f'small-{name}', f'of {name}')
    html = pair('small', ['baseline', 'no_rope', 'gelu'])
    (tmp_path/'index.html').write_text(f'<!DOCTYPE html><main>{html}</main><script src="widgets.js"></script>')
    page.goto(f'file://{tmp_path}/index.html')
    page.get_by_label('Beside the baseline').select_option('gelu')
    page.wait_for_function("document.querySelectorAll('.piny-told').length === 2")
    page.wait_for_function("document.querySelector('.piny-status').textContent === 'Both stories are told.'")
    one, other = page.locator('.piny-told').all_text_contents()
    assert one == other != ''  # one model under two names, one seed: one story
    assert 'of gelu' in page.locator('.piny-columns').text_content()


# -- the slider of seeds

LOSSES = {v: {s: mean + .01 * ((3*s + len(v)) % 5) for s in range(4 * (1 + 2 * (v == 'baseline')))}
          for v, mean in dict(baseline=1., level=1.004, no_rope=1.2).items()}


@pytest.fixture
def seeds(page, tmp_path):  # noqa: F811
    "The widget of a made-up study with four seeds."
    write_parts(tmp_path)
    (tmp_path/'seeds.js').write_text((files('piny')/'web'/'seeds.js').read_text())
    (tmp_path/'made-seeds.js').write_text(f'pinySeeds.add({json.dumps(study_values("made", LOSSES))})')
    (tmp_path/'index.html').write_text('<!DOCTYPE html><meta charset="utf-8"><main>'
                                       '<div data-piny="seeds" data-study="made"></div></main>'
                                       '<script src="widgets.js"></script>')
    page.goto(f'file://{tmp_path}/index.html')
    page.wait_for_selector('tbody tr')
    return page


def rows(page): return [row.split('\t') for row in page.locator('tbody tr').all_inner_texts()]  # noqa: F811


def expected(n):
    "The rows for n seeds, as piny computes them."
    found = compare_all(first_seeds(LOSSES, n, 4))
    last = compare_all(LOSSES)
    for v, c in found.items():
        was = '' if c.verdict == last[v].verdict else f' (with all: {last[v].verdict})'
        yield [v.replace('_', ' '), f'{signed(c.mean)} [{signed(c.low)}, {signed(c.high)}]', c.verdict + was]


def test_the_slider_tells_what_piny_computes(seeds):
    for n in (4, 3, 2):
        slide(seeds, 'seeds', n)
        assert rows(seeds) == list(expected(n))
        assert f'The first {n} of 4 seeds' in seeds.locator('[role=status]').text_content()


def test_the_slider_moves_by_keyboard(seeds):
    seeds.get_by_label('seeds', exact=True).focus()
    seeds.keyboard.press('ArrowLeft')
    assert seeds.locator('output').text_content() == '3'
    assert rows(seeds) == list(expected(3))
