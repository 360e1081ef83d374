"""The server: gateway, handlers, delivery and engine, put together in ``server.app``."""
