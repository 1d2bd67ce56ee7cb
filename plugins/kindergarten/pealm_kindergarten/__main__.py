"""`python -m pealm_kindergarten`: print a few stories, or explain one."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .corpus import KINDERGARTEN, SECOND_GRADE
from .parts import END


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")  # one line, without the usage


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where `--explain` found a problem; 2 for bad input."""
    parser = _Parser(prog="python -m pealm_kindergarten", description="Print little stories, or explain one.")
    parser.add_argument("--seed", type=int, default=0, help="which stories (default 0)")
    parser.add_argument("-n", type=_positive, default=5, help="how many (default 5)")
    parser.add_argument("--explain", metavar="STORY", help="show its derivation, or where it stops making sense")
    grades = {grade.name: grade for grade in (KINDERGARTEN, SECOND_GRADE)}
    parser.add_argument(
        "--grade", choices=grades, default=KINDERGARTEN.name, help="which grammar (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    grade = grades[options.grade]
    if options.explain is None:
        for index in range(options.n):
            print(grade.story(options.seed, index))
        return 0
    text = options.explain.removesuffix(END)
    if END in text:
        parser.error("argument --explain: a story is one line")
    print(grade.explain(text))
    return 0 if grade.parse(text) else 1


if __name__ == "__main__":
    sys.exit(main())
