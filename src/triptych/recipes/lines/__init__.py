"""Lines from catalogue to report, one per kind of log: what is learned from it, and what can be measured.

A line is a function of `stages.Stages` that returns the report. `pipeline.line_of` chooses it.
"""
