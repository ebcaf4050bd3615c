"""The engine: answers one request over a finished run. No training code, no HTTP.

Read in this order: `engine` (what can be asked), `answers` (what comes back), `notes` (what is said of it), `channels`
(who answers), `filters`, `photos`, `shelf` (the items, those added at run time included), `new_items`, `journal` and
`replay` (how changes survive), `explain`, `code_paths`, `bundle` (what an engine is opened from).
"""

from __future__ import annotations

from triptych.engine.answers import Answer, Channel, CodeBranch, CodePath, CodeStep, CodeTree, Facets, Hit, Why
from triptych.engine.code_paths import PrefixError
from triptych.engine.engine import Engine
from triptych.engine.filters import Filters
from triptych.engine.journal import JournalError
from triptych.engine.photos import PhotoError

__all__ = [
    "Answer",
    "Channel",
    "CodeBranch",
    "CodePath",
    "CodeStep",
    "CodeTree",
    "Engine",
    "Facets",
    "Filters",
    "Hit",
    "JournalError",
    "PhotoError",
    "PrefixError",
    "Why",
]
