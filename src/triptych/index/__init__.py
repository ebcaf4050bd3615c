"""Vector indexes: from vectors to their nearest items. `base` has the protocol, `backends` the kinds."""
