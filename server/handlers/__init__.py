"""What each client frame does: one small module a frame, found through ``server.dispatch``."""
