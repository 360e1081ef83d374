"""The flow language: from YAML text to an immutable form, and what evaluates inside of it."""
