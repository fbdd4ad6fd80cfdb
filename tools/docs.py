"""Build the docs site from the notebooks into _docs/, with Quarto where it is installed, else with smalldocs.

python tools/docs.py             # once
python tools/docs.py --preview   # and again whenever something changes, served at http://127.0.0.1:4200

Either of them reads nbs/_quarto.yml, which names tools/pages.py to be run before it and tools/finish.py after it.
"""
import os, shutil, subprocess, sys, time
from argparse import ArgumentParser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from contents import ROOT
from pages import PROC, STATIC, begin, sources

DOCS = ROOT/'_docs'


def site(changed=()):
    "Build the whole site, or the pages of the sources that have changed, and put it in the place of `_docs/`."
    if not set(changed) <= set(sources()): changed = ()  # something else, which may concern every page
    if not changed: begin()  # what a renderer may read before it runs any script
    here = os.path.dirname(sys.executable)  # where the `python` is that runs the scripts before and after
    env = dict(os.environ, PATH=f'{here}{os.pathsep}{os.environ["PATH"]}', PINY_CHANGED=' '.join(changed))
    quarto = shutil.which('quarto')
    renderer = [quarto, 'render'] if quarto else [sys.executable, '-m', 'smalldocs.cli', 'render', '--strict']
    subprocess.run([*renderer, PROC], check=True, env=env)
    shutil.rmtree(DOCS, ignore_errors=True)
    os.replace(PROC/'_docs', DOCS)
    print('the site is in _docs/: open _docs/index.html')


# -- preview

def stamps():
    "When each file that the site is made of was last written."
    parts = [*map(ROOT.joinpath, sources()), *ROOT.glob('nbs/[!_.]*.*'), *ROOT.glob('nbs/_quarto.yml'),
             *ROOT.glob('figures/*/*'), *(p for folder in STATIC for p in (ROOT/folder).rglob('*'))]
    return {p.relative_to(ROOT).as_posix(): p.stat().st_mtime for p in parts if p.is_file()}


def preview(port=4200):
    "Serve the site, and build what has changed whenever something does, until Ctrl-C."
    server = ThreadingHTTPServer(('127.0.0.1', port), partial(SimpleHTTPRequestHandler, directory=DOCS))
    Thread(target=server.serve_forever, daemon=True).start()
    print(f'http://127.0.0.1:{port}; Ctrl-C ends it')
    seen = stamps()
    while True:
        time.sleep(.5)
        sources.cache_clear()
        now = stamps()
        if now == seen: continue
        try: site(sorted(path for path in {*seen, *now} if seen.get(path) != now.get(path)))
        except Exception as e: print(f'not built: {e}', file=sys.stderr)  # a notebook that is half written
        seen = now


if __name__ == '__main__':
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--preview', action='store_true', help='serve it, and build what changes')
    given = parser.parse_args()
    site()
    try:
        if given.preview: preview()
    except KeyboardInterrupt: print()
