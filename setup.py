"Packaging of piny. Every fact is read from settings.ini."
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SETTINGS = ConfigParser()
SETTINGS.read_string((ROOT/'settings.ini').read_text(encoding='utf-8'))
ini = SETTINGS['DEFAULT']
name = ini['lib_name']
EXERCISES = 'tutorials/build_it.ipynb'

# `ablate_requirements` is the extra `ablate`, and so on; `dev` is all of them and what makes the project
extras = {key.removesuffix('_requirements'): ini[key].split() for key in ini if key.endswith('_requirements')}
extras['dev'] = sorted(set(sum(extras.values(), [])))


class with_notebooks(build_py):
    "Questions and exercises come with the package: `piny_ablate` and `piny_exercises` work outside of a clone."
    def run(self):
        super().run()
        if self.editable_mode: return
        there = Path(self.build_lib)/name
        shutil.copytree(ROOT/'ablations', there/'ablations', dirs_exist_ok=True, ignore=shutil.ignore_patterns('.*'))
        (there/'tutorials').mkdir(exist_ok=True)
        shutil.copy(ROOT/'nbs'/EXERCISES, there/EXERCISES)


setup(
    name=name,
    cmdclass=dict(build_py=with_notebooks),
    version=ini['version'],
    description=ini['description'],
    keywords=ini['keywords'],
    long_description=(ROOT/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=ini['author'],
    license=ini['license'],
    url=ini['git_url'],
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={name: ['models/*/*', 'web/*']},
    zip_safe=False,
    python_requires=f">={ini['min_python']}",
    install_requires=ini['requirements'].split(),
    extras_require=extras,
    entry_points=dict(console_scripts=ini['console_scripts'].split(), nbdev=[f'{name}={name}._modidx:d']))
