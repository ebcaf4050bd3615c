"""Ways of training an encoder, one per file; the file name is the kind."""
