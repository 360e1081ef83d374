"""Delivery: who watches what, in which order, and how much may wait for each socket."""
