"""The papers' claims, measured: one folder each, with its grid of runs, results and what they say."""
