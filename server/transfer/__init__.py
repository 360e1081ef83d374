"""Takes conversations out of a store and into another one; see ``lines`` for the file between the two."""
