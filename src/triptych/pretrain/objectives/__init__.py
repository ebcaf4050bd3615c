"""What an encoder can be asked to learn, one objective per file; the file name is the kind."""
