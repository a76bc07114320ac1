"""What private clients spend: ledgers of what was released, the epsilon that they add up to, and secret noise.

Adjacency is adding or removing one record of one client. Nothing here imports torch before an epsilon is wanted.
"""
