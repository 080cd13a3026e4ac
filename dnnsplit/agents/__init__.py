"""Hosts that put themselves to work: agents, what they measure and keep, and the deployer that goes from a model to an answer.

In: a model, hosts with an agent each. Out: a deployment that follows their state, and a client of it.
May import every room before it, up to studies.
"""
