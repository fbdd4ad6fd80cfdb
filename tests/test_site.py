"""The docs site in a real browser: every page opens in silence, says what it shows, and reads on a screen and a phone.

It takes Chromium or Chrome: `apt-get install chromium`, or PINY_BROWSER with the path of one; else this is skipped.
"""
import os, re, shutil
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from threading import Thread

import pytest

NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
MACOS = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'
BROWSER = os.environ.get('PINY_BROWSER') or next(filter(None, map(shutil.which, (*NAMES, MACOS))), None)
if not BROWSER:
    pytest.skip('THE SITE IS NOT TESTED: no browser was found; apt-get install chromium, or set PINY_BROWSER',
                allow_module_level=True)
pytest.importorskip('playwright', reason='THE SITE IS NOT TESTED: playwright is not installed; make setup')

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

DESKTOP = dict(width=1280, height=900)
PHONE = dict(width=390, height=844)


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'],
                                             ignore_default_args=['--hide-scrollbars'])
        yield browser
        browser.close()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


def served(folder):
    "A server of a folder, and its address."
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Silent, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    return server, f'http://127.0.0.1:{server.server_address[1]}'


@pytest.fixture(scope='module')
def address(site):
    server, address = served(site)
    yield address
    server.shutdown()


@pytest.fixture
def page(browser):
    "A window of a desktop, light, where nothing was chosen before."
    context = browser.new_context(viewport=DESKTOP, color_scheme='light', reduced_motion='reduce')
    yield context.new_page()
    context.close()


# -- what is looked for on every page

SHOWN = '''() => {
    const main = document.querySelector('main').cloneNode(true)
    main.querySelectorAll('pre, code, script, style, svg').forEach(e => e.remove())
    return main.textContent
}'''
BARE = '''() => [...document.querySelectorAll('main img, main svg[role=img], main [role=img]')]
    .filter(e => !(e.alt || e.ariaLabel || e.querySelector('title'))).map(e => e.outerHTML.slice(0, 80))'''
UNREACHABLE = '''() => [...document.querySelectorAll('main *')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX))
    .filter(e => e.tabIndex < 0).map(e => e.outerHTML.slice(0, 80))'''
WEIGHT = '''() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, entry) => sum + entry.transferSize, 0)'''
WIDTH = '() => document.documentElement.scrollWidth'
CUT = '''() => [...document.querySelectorAll('main .sourceCode pre')]
    .filter(e => e.scrollWidth > e.clientWidth)
    .filter(e => Math.max(...e.innerText.split('\\n').map(line => line.trimEnd().length)) <= 100).length'''
RAW = [
    r'\\(?:frac|sum|sqrt|mathrm|text|times|left|cdot|epsilon|alpha|beta|theta|log|exp)\b',  # TeX
    r'\$\$', r'\$[^\s$][^$\n]{0,60}[^\s$]\$',
    r'\]\(\S', r'(?<!\w)\*\*\w', r'(?m)^\s*#{1,4} \w', r'```', r'(?m)^\s*\|.*\|\s*$', r':::']  # Markdown
ALWAYS_ALIKE = [['pre'], ['.math'], ['svg'], ['#quarto-sidebar']]  # tested whole on one page, which has all of them


@dataclass
class Seen:
    "What a page has shown and done."
    noise: list = field(default_factory=list)       # errors, warnings, requests that failed
    elsewhere: list = field(default_factory=list)   # requests to other hosts
    raw: list = field(default_factory=list)         # TeX and Markdown among the words
    bare: list = field(default_factory=list)        # pictures without words
    unreachable: list = field(default_factory=list) # what scrolls, and not by the keyboard
    serious: list = field(default_factory=list)     # what axe finds serious or critical
    cut: int = 0                                    # blocks of code with lines up to 100 characters that do not fit
    wide: int = 0                                   # pixels that a phone lacks
    weight: int = 0                                 # bytes that came over the wire


def raw_text(words):
    "TeX and Markdown that no one has rendered."
    return [m[0].strip() for pattern in RAW for m in re.finditer(pattern, words)]


def serious(page, **options):
    "What axe-core finds serious on the page."
    found = Axe().run(page, dict(exclude=options.pop('exclude', ALWAYS_ALIKE)),
                      dict(resultTypes=['violations'], preload=False, **options))
    return [f'{v["id"]}: {v["nodes"][0]["html"][:120]}' for v in found.response['violations']
            if v['impact'] in ('serious', 'critical')]


def look(browser, url):
    "Open a page on a desktop, in both themes, and on a phone."
    seen = Seen()
    host = '/'.join(url.split('/')[:3])
    context = browser.new_context(viewport=DESKTOP, color_scheme='light', reduced_motion='reduce')
    page = context.new_page()
    page.on('console', lambda m: seen.noise.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: seen.noise.append(str(e)))
    page.on('requestfailed', lambda r: seen.noise.append(f'failed: {r.url}'))
    page.on('response', lambda r: seen.noise.append(f'{r.status}: {r.url}') if r.status >= 400 else None)
    page.on('request', lambda r: None if r.url.startswith((host, 'data:', 'blob:')) else seen.elsewhere.append(r.url))
    page.goto(url, wait_until='load')
    seen.raw = raw_text(page.evaluate(SHOWN))
    seen.bare = page.evaluate(BARE)
    seen.cut = page.evaluate(CUT)
    seen.weight = page.evaluate(WEIGHT)
    seen.serious = serious(page)
    page.evaluate('() => document.querySelector("#theme")?.click()')
    seen.serious += serious(page, runOnly=['color-contrast'])
    page.set_viewport_size(PHONE)
    page.evaluate('() => new Promise(requestAnimationFrame)')
    seen.wide = max(0, page.evaluate(WIDTH) - PHONE['width'])
    seen.unreachable = page.evaluate(UNREACHABLE)
    context.close()
    return seen


@pytest.fixture(scope='module')
def seen(browser, address, site):
    "From each page to what it has shown."
    pages = sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html') if 'site_libs' not in p.parts)
    return {page: look(browser, f'{address}/{page}') for page in pages}


def faults(seen, name): return {page: getattr(s, name) for page, s in seen.items() if getattr(s, name)}


# -- every page

def test_there_are_pages(seen): assert len(seen) > 50
def test_pages_open_in_silence(seen): assert not faults(seen, 'noise')
def test_nothing_is_fetched_from_other_hosts(seen): assert not faults(seen, 'elsewhere')
def test_neither_tex_nor_markdown_is_left(seen): assert not faults(seen, 'raw')
def test_every_picture_has_words(seen): assert not faults(seen, 'bare')
def test_code_of_100_characters_fits_a_desktop(seen): assert not faults(seen, 'cut')
def test_no_page_is_wider_than_a_phone(seen): assert not faults(seen, 'wide')
def test_what_scrolls_is_reached_by_the_keyboard(seen): assert not faults(seen, 'unreachable')
def test_axe_finds_nothing_serious_in_either_theme(seen): assert not faults(seen, 'serious')
def test_pages_are_light(seen): assert not {page: s.weight for page, s in seen.items() if s.weight > 1e6}


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_code_formulas_and_drawings_can_be_read(theme, page, address):
    page.emulate_media(color_scheme=theme)
    page.goto(f'{address}/norm.html')
    assert not serious(page, exclude=[])


# -- what the checks refuse

BAD = '''<!doctype html><html lang="en"><title>bad</title><body><main>
<p>A formula $\\frac{1}{2}$, a [link](a.html) and **bold** words.</p>
<p style="color: #aaa; background: #fff">too pale</p>
<img src="nothing.png"><div style="width: 900px">wide</div>
<div class="sourceCode"><pre style="width: 200px; overflow-x: auto">''' + 'x' * 90 + '''</pre></div>
<script>console.error('oh'); undefined.nothing</script><script src="http://127.0.0.2:9/a.js"></script>
</main></body></html>'''


@pytest.fixture(scope='module')
def bad(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bad')
    (folder/'bad.html').write_text(BAD)
    server, address = served(folder)
    yield look(browser, f'{address}/bad.html')
    server.shutdown()


def test_faults_are_found(bad):
    assert 'oh' in bad.noise
    assert any('undefined' in words for words in bad.noise)
    assert any('404' in words for words in bad.noise)
    assert bad.elsewhere == ['http://127.0.0.2:9/a.js']
    assert {r'\frac', '](a', '**b'} <= set(bad.raw)
    assert len(bad.bare) == 1
    assert bad.cut == 1
    assert bad.wide > 400
    assert len(bad.unreachable) == 1
    assert {words.split(':')[0] for words in bad.serious} >= {'color-contrast', 'image-alt'}


def test_plain_words_are_not_raw():
    assert not raw_text('It costs $5 or $6, a*b, [1] (see above), f(x) | g(x), C# and #1.')


# -- light and dark

def dark(page): return page.evaluate('() => document.documentElement.dataset.bsTheme') == 'dark'


def background(page): return page.evaluate('() => getComputedStyle(document.body).backgroundColor')


def test_the_theme_is_the_systems_wish(page, address):
    for wish in ('light', 'dark', 'light'):
        page.emulate_media(color_scheme=wish)
        page.goto(f'{address}/norm.html')
        assert dark(page) == (wish == 'dark')
    page.emulate_media(color_scheme='dark')  # while the page is open
    page.wait_for_function('() => document.documentElement.dataset.bsTheme === "dark"')


def test_the_theme_is_chosen_by_a_button_and_kept(page, address):
    page.goto(f'{address}/norm.html')
    before = background(page)
    page.focus('#theme')
    page.keyboard.press('Enter')
    assert dark(page)
    assert background(page) != before
    page.goto(f'{address}/commands/train.html')
    assert dark(page)
    page.click('#theme')
    assert not dark(page)


# -- search

def found(page, words):
    "Where the search leads, best first."
    page.fill('.site-search input', words)
    page.wait_for_selector('.smalldocs-search-results.show a, .search-none')
    page.wait_for_timeout(50)
    return page.eval_on_selector_all('.search-result', 'links => links.map(a => a.getAttribute("href"))')


QUERIES = {
    'RMSNorm': '../norm.html#rmsnorm',
    'learned positions': '../position.html#learned-positions',
    'top-p': '../generation.html#choosing-a-token',
    'top_p': '../config.html#sampling'}


@pytest.mark.parametrize('words', QUERIES)
@pytest.mark.parametrize('scheme', ['file', 'http'])
def test_search_finds(scheme, words, page, address, site):
    page.goto(f'{site.as_uri() if scheme == "file" else address}/commands/train.html')
    assert QUERIES[words] in found(page, words)[:8]


def test_search_says_that_there_is_nothing(page, address):
    page.goto(f'{address}/index.html')
    assert found(page, 'xylophonist zeppelin') == []
    assert 'Nothing' in page.inner_text('.search-none')


def test_search_works_by_keyboard(page, address):
    page.goto(f'{address}/index.html')
    page.keyboard.press('/')
    page.keyboard.type('RMSNorm')
    page.wait_for_selector('.search-result')
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Enter')
    page.wait_for_url('**/norm.html#rmsnorm')


# -- from page to page

def test_each_page_leads_to_the_next_at_both_ends(page, address, seen):
    page.goto(f'{address}/index.html')
    visited = []
    while True:
        visited.append(page.url.removeprefix(f'{address}/'))
        above, below = (page.query_selector(css) for css in ('.way a:text-matches("→$")', '.nav-page-next a'))
        assert (above is None) == (below is None), visited[-1]
        if not above: break
        assert above.evaluate('a => a.href') == below.evaluate('a => a.href'), visited[-1]
        page.goto(above.evaluate('a => a.href'))
    assert sorted(visited) == sorted(seen)


def test_answers_come_before_the_engineering(page, address):
    page.goto(f'{address}/index.html')
    links = page.eval_on_selector_all('#quarto-sidebar a[href]', 'links => links.map(a => a.getAttribute("href"))')
    assert links[:2] == ['index.html', 'answers.html']
    assert links.index('ablations/position.html') < links.index('config.html')


def test_the_home_page_says_what_it_is_in_one_screen(page, address):
    page.goto(f'{address}/index.html')
    for what in ('main h1', 'main .description', 'main pre', 'main blockquote p'):
        box = page.locator(what).first.bounding_box()
        assert box['y'] + box['height'] < DESKTOP['height'], what


def test_the_menu_of_a_phone_opens_by_keyboard(page, address):
    page.set_viewport_size(PHONE)
    page.goto(f'{address}/norm.html')
    link = page.locator('#quarto-sidebar a[href="position.html"]')
    assert not link.is_visible() or link.bounding_box()['x'] < 0
    page.focus('.quarto-btn-toggle')
    page.keyboard.press('Enter')
    page.wait_for_function('() => document.querySelector("#quarto-sidebar").getBoundingClientRect().x >= 0')
    link.click()
    page.wait_for_url('**/position.html')


def test_a_page_leads_to_its_notebook(page, address):
    page.goto(f'{address}/commands/train.html')
    links = page.eval_on_selector_all('.way a', 'links => links.map(a => a.href)')
    assert any(link.endswith('/blob/main/nbs/commands/train.ipynb') for link in links)
    assert any(link.endswith('/edit/main/nbs/commands/train.ipynb') for link in links)
