"""Speed as ratios: every contender in one run, on one core each, interleaved; `python -m bench`."""
