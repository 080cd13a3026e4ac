"""The command line: every command is one function with its arguments in front of it.

In: arguments. Out: files, printed objects, an exit code.
May import every room.
"""
