"Packaging of piny. Every fact is read from settings.ini."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SETTINGS = ConfigParser()
SETTINGS.read_string((ROOT/'settings.ini').read_text(encoding='utf-8'))
ini = SETTINGS['DEFAULT']
lib, readme = ini['lib_name'], ROOT/'README.md'

setup(
    name=lib, version=ini['version'], description=ini['description'], keywords=ini['keywords'],
    long_description=readme.read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=ini['author'], license=ini['license'], url=ini['git_url'],
    packages=find_packages(include=[lib, f'{lib}.*']), package_data={lib: ['models/*/*']}, zip_safe=False,
    python_requires=f">={ini['min_python']}",
    install_requires=ini['requirements'].split(),
    extras_require=dict(dev=ini['dev_requirements'].split()),
    entry_points=dict(console_scripts=ini['console_scripts'].split(), nbdev=[f'{lib}={lib}._modidx:d']),
)
