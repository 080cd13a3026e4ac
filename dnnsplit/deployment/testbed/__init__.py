"""All stages on one machine or on real hosts, started, introduced to each other, watched and ended.

In: a bundle and a network. Out: a running deployment and its client; predicted beside measured.
May import what deployment may.
"""
