"""How much is allowed: counters and buckets that the gateway asks."""
