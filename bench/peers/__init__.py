"""What Parley is measured against: ``python -m bench.peers.NAME PORT DIRECTORY`` starts one."""
