"""What numpy raises for damaged array files."""

import tokenize

# numpy parses a header as Python, so nearly any error of a parser can occur.
DAMAGED = (
    *(ValueError, KeyError, TypeError, EOFError, OverflowError),
    *(SyntaxError, tokenize.TokenError, RecursionError),
)
