"""Conversations, logs and flows in MongoDB, for any number of equal instances."""

from storage.mongo.store import MongoStore

__all__ = ["MongoStore"]
