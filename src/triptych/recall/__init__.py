"""Panel 2, recall: from a request to candidates over the whole catalogue: `base` (protocols), `models` (kinds)."""
