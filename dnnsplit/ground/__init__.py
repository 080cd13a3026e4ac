"""What every room stands on: errors, units, files, tables, tolerances, and the look of objects in a notebook.

In: values, texts and files of any kind. Out: the same, checked and read or written whole.
May import no other room.
"""
