"""Fill the marked regions of the documents from benchmarks/*.json.

    python tools/benchmark/report.py            rewrite the regions (make report)
    python tools/benchmark/report.py --check    status 1 if a document differs

Documents are README.md, docs/**/*.md, and below configs/ all *.md and *.py. See
xbench/document.py for the marks.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from xbench import common, document

_DOCUMENTS = ('README.md', 'docs/**/*.md', 'configs/**/*.md', 'configs/**/*.py')
_COMMAND = 'make report'


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing')
    parser.add_argument('--root', type=Path, default=common.ROOT)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(sys.argv[1:] if argv is None else argv)
    check_commands(args.root / 'benchmarks')
    differing = []
    regions = 0
    for path in documents(args.root):
        name = path.relative_to(args.root).as_posix()
        old = path.read_text(encoding='utf-8')
        try:
            new = document.fill(old, args.root / 'benchmarks', name)
        except (ValueError, FileNotFoundError) as error:
            common.fail(str(error))
        regions += new.count('<!-- /report -->')
        if new == old:
            continue
        differing.append(name)
        if args.check:
            print_difference(name, old, new)
        else:
            path.write_text(new, encoding='utf-8')
            print(f'rewrote {name}')
    if args.check and differing:
        common.fail(
            f'{", ".join(differing)} differs from benchmarks/*.json. Run `{_COMMAND}` '
            'and commit what it changes.'
        )
    print(f'{regions} regions agree with benchmarks/*.json')


def check_commands(folder: Path) -> None:
    """Fail where the command of a result writes another file than the result."""
    for path in sorted(folder.glob('*.json')):
        result = json.loads(path.read_text(encoding='utf-8'))
        words = shlex.split(result.get('command', ''))
        outs = [b for a, b in zip(words, words[1:], strict=False) if a == '--out']
        if outs and outs != [f'benchmarks/{path.name}']:
            common.fail(
                f'benchmarks/{path.name} has a command that writes {outs[-1]}. Run it '
                f'again with --out benchmarks/{path.name}, or name it so in the file.'
            )


def documents(root: Path) -> Iterator[Path]:
    """List the documents that may hold regions, in a fixed order."""
    for pattern in _DOCUMENTS:
        yield from sorted(root.glob(pattern))


def print_difference(name: str, old: str, new: str) -> None:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), name, f'{name} from benchmarks', lineterm=''
    )
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
