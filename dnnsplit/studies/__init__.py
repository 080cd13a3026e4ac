"""Questions asked many times: other bandwidths, servers, methods, sizes; grids; adaptive plans; predicted against measured.

In: stage objects of the rooms before. Out: tables, and plans with their reasons.
May import every room before it, up to deployment and examples.
"""
