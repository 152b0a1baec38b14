"""Step 7 at scale: the grid with seeds, at any size, judged as PLAN.md promised. `python -m study --help`"""
