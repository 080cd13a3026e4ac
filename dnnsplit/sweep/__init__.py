"""Notebooks as jobs: parameters, runs that resume, Dask, reports. It knows nothing of networks and plans.

In: notebooks and values of their parameters. Out: executed notebooks, a table of results, an HTML page.
May import the ground alone; papermill, nbconvert and Dask are imported here alone.
"""
