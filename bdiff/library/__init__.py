"""What `import bdiff` gives to notebooks and scripts: each public name stands in a module here and is loaded when used.

Here is no command line and nothing that the pipeline needs. Start with `bdiff/__init__.py`, which lists the names, and
docs/library.md, whose examples are tests.
"""
