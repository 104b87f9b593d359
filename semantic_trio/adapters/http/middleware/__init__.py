"""The way of every request to its handler and back: paths, access rules, bodies, memory, the log
line.
"""
