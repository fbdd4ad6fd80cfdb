"""Make the pictures in stored outputs light: 128 colours are a third of the bytes for lines and words.

python tools/light.py
"""
import base64, io

from contents import ROOT
from execnb.nbio import read_nb, write_nb
from PIL import Image


def light(png):
    "The same picture in 128 colours; the original if it has few already, or if that is no smaller."
    picture = Image.open(io.BytesIO(png))
    if picture.mode == 'P': return png
    few = io.BytesIO()
    picture.quantize(128, Image.Quantize.FASTOCTREE).save(few, 'png', optimize=True)
    return min(png, few.getvalue(), key=len)


def lighten(path):
    "Write a notebook anew if one of its pictures can be lighter."
    nb = read_nb(path)
    changed = False
    for cell in nb.cells:
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'image/png' not in data: continue
            png = base64.b64decode(data['image/png'])
            if (small := light(png)) == png: continue
            data['image/png'] = base64.b64encode(small).decode()
            changed = True
    if changed: write_nb(nb, path)


if __name__ == '__main__':
    for path in sorted(ROOT.glob('nbs/**/[!_.]*.ipynb')): lighten(path)
