"""The approval example's own code: what its flow calls as ``ledger.*``."""
