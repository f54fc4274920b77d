"""What a person looks at: tables, pages and figures, made from run folders and from what stages leave. Nothing is
trained or measured here. Start at runs.py for tables, figures.py for pictures.
"""
