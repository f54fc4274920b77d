"""The public API of `import bdiff` for notebooks and scripts: each name is in a module here, imported on first use.

No command line, and nothing that the pipeline needs. Start at `bdiff/__init__.py`, which lists the names, and
docs/library.md, whose examples are tests.
"""
