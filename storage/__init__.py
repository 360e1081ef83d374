"""Where state lives: the ports, the records they keep, and one folder an adapter."""
