"""The engine: a pure reducer, a runner that makes its results durable, a sweeper for what is due."""
