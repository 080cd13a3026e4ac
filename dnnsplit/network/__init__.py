"""The physical graph: servers, directed links, and the YAML that people write for them.

In: a YAML file, or servers and links. Out: a `Network`.
May import the ground.
"""
