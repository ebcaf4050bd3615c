"""One quantiser per file; the file name is its registered kind."""
