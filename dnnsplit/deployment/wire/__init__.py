"""What crosses the wire: messages, their bytes, and the channels that carry them.

In: arrays by name. Out: messages of the Open Inference Protocol, TLS channels.
May import what deployment may.
"""
