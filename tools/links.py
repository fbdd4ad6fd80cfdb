"""Links between files of the repository: in pages, in pictures, and to where anyone can read them."""
import posixpath, re
from nbdev.config import get_config

LINK = re.compile(r'(\]\()(?!\w+:|[#/])([^)\s]+)')  # a Markdown link or picture with a relative target
SVG_LINK = re.compile(r'(href=")([^":#]+)(?=")')    # a link of a box in a picture


def target(link, page):
    "The file, seen from the root of the repository, that a relative link on `page` leads to."
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def on_the_web(path):
    "Where a file of the repository can be read by anyone."
    cfg = get_config()
    return f'{cfg.git_url}/blob/{cfg.branch}/{path}'
