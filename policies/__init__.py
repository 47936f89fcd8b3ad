"""Decides: who leaves the waiting room, when, with whom and to which server."""
