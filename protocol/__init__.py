"""What goes over the wire: frames, events, errors, codec, session. No I/O, no clock, no randomness."""
