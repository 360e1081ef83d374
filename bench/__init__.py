"""The benchmarks: ``python -m bench`` prints one table with ratios and writes JSON to ``bench/results``.

The method: a figure counts as a ratio taken in one run. Servers are separate processes pinned to one core,
the load is made by this process on another one, the two sides of a ratio take turns over several rounds,
and the median of the rounds is reported.
"""
