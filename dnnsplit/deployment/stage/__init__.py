"""One server of a deployment: its service, its sessions, what it keeps of a request, what it emulates.

In: a configuration and a bundle. Out: a process that answers requests.
May import what deployment may.
"""
