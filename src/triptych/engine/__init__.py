"""The engine: answers one request over a finished run. No training code, no HTTP.

Read in this order: `engine` (what can be asked), `answers` (what comes back), `notes` (what is said of it), `channels`
(who answers), `snapshot` (all that answers at one moment; a change makes the next one), `filters`, `photos`, `shelf`
(the items, those added at run time included), `recall_items` and `generation` (what a recall model and a decoder need
of them), `ranking` (the order of what was found), `new_items`, `journal` and `replay` (how changes survive), `explain`,
`code_paths`, `bundle` (what an engine is opened from).
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
