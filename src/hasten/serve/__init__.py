"""Serves bundles over HTTP and gRPC, where nothing was ever trained. The base install is enough for HTTP."""
