"""The REST surface: health, status, metrics, visitors; typed errors; request ids."""
