"piny_generate as a person meets it: on a terminal, in a pipe, interrupted."
import os, pty, select, signal, subprocess, sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
PROGRAM = BIN/'piny_generate'
LONG = '--max-tokens', '1000000' # a story that is still told when it is interrupted
TIME = 120 # seconds, after which a process that hangs fails the test

class Terminal:
    "The program on a terminal of its own."
    def __init__(self, *args):
        self.main, other = pty.openpty()
        self.process = subprocess.Popen([PROGRAM, *args], stdin=other, stdout=other, stderr=other)
        os.close(other)
        self.text = b''

    def read(self)->bool: # False at the end
        ready, _, _ = select.select([self.main], [], [], TIME)
        assert ready, f'nothing comes after {self.text!r}'
        try: piece = os.read(self.main, 1_000)
        except OSError: return False
        self.text += piece
        return bool(piece)

    def read_until(self, mark, times=1):
        while self.text.count(mark) < times: assert self.read(), self.text

    def type(self, keys): os.write(self.main, keys)

    def interrupted(self)->int: # exit code
        "Ctrl-C; Python does not see one that comes just before it waits for a key, and a person types it again."
        self.process.send_signal(signal.SIGINT)
        while b'interrupted' not in self.text:
            comes, _, _ = select.select([self.main], [], [], 10)
            if not comes: self.process.send_signal(signal.SIGINT)
            elif not self.read(): break
        return self.ended()

    def ended(self)->int: # exit code
        while self.read(): pass
        os.close(self.main)
        return self.process.wait(TIME)

def in_a_pipe(*args, typed=b''):
    return subprocess.run([PROGRAM, *args], input=typed, capture_output=True, timeout=TIME)

def test_control_characters_reach_a_pipe_but_no_terminal():
    args = '--prompt', 'a\x1b[2J\x07b', '--max-tokens', '1'
    terminal = Terminal(*args)
    assert terminal.ended() == 0
    assert terminal.text.startswith(b'a[2Jb')
    assert in_a_pipe(*args).stdout.startswith(b'a\x1b[2J\x07b')

def test_ctrl_d_ends_a_conversation():
    terminal = Terminal('--max-tokens', '3')
    terminal.read_until(b'> ')
    terminal.type(b'Tom had\n')
    terminal.read_until(b'> ', times=2)
    terminal.type(b'\x04')
    assert terminal.ended() == 0
    assert b'Traceback' not in terminal.text

def test_ctrl_c_at_a_prompt():
    terminal = Terminal()
    terminal.read_until(b'> ')
    assert terminal.interrupted() == 130
    assert b'Traceback' not in terminal.text

def test_ctrl_c_in_a_story():
    terminal = Terminal('--prompt', 'One day', *LONG, '--n', '1000')
    terminal.read_until(b'One day')
    assert terminal.interrupted() == 130
    assert b'Traceback' not in terminal.text

def test_a_closed_pipe_ends_it():
    args = [PROGRAM, '--prompt', 'One day', *LONG, '--n', '1000']
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(7) == b'One day'
    process.stdout.close()
    assert process.stderr.read() == b''
    assert process.wait(TIME) == 128 + signal.SIGPIPE

def test_prompts_from_a_pipe():
    done = in_a_pipe('--prompts', '-', '--max-tokens', '5', typed=b'One day\nTom and Lily\n')
    first, second = done.stdout.decode().strip().split('\n\n')
    assert first.startswith('One day')
    assert second.startswith('Tom and Lily')

def test_what_is_piped_in_is_told():
    done = in_a_pipe('--max-tokens', '5', typed=b'One day\nTom and Lily\n')
    assert done.stdout == in_a_pipe('--prompts', '-', '--max-tokens', '5', typed=b'One day\nTom and Lily\n').stdout
    assert in_a_pipe('--max-tokens', '5').stdout == in_a_pipe('--prompt', '', '--max-tokens', '5').stdout

def test_a_story_begins_without_the_compiler():
    program = 'import sys\nfrom piny.commands.generate import main\nmain(["--prompt", "One", "--max-tokens", "5"])\n'
    done = without([], program + 'print("torch._dynamo" in sys.modules)')
    assert done.stdout.endswith('False\n'), done.stderr

def without(modules, program):
    "Run a program in which the modules cannot be imported."
    first = f'import sys; sys.modules.update(dict.fromkeys({modules!r}))\n'
    return subprocess.run([sys.executable, '-c', first + program], capture_output=True, text=True, timeout=TIME)

def test_a_story_needs_nothing_that_draws_or_measures():
    modules = ['matplotlib', 'pandas', 'pydivsufsort', 'scipy', 'seaborn', 'papermill', 'tokenizers']
    done = without(modules, 'from piny.commands.generate import main; main(["--max-tokens", "5"])')
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

NEEDED = dict(generate=[], quality=['--train', 'a.txt', '--stories', 'b', '--name', 'c'])

@pytest.mark.parametrize('command', NEEDED)
def test_help_and_mistakes_need_no_torch(command):
    def typed(*args): return without(['torch'], f'from piny.commands.{command} import main\nmain({args})')
    done = typed('--help')
    assert (done.returncode, done.stderr) == (0, ''), done.stderr
    done = typed(*NEEDED[command], '--tempreature', '1')
    assert done.returncode == 2
    assert "did you mean '--temperature'?" in done.stderr
