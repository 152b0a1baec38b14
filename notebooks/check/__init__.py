"""Checks for the exercises: `check.step0.alpha(my_alpha)` calls your function and says what it found.

One module for each notebook, loaded when it is first named.
"""

import importlib


def __getattr__(name: str):
    try:
        return importlib.import_module(f"check.{name}")
    except ModuleNotFoundError as e:
        raise AttributeError(f"there are no checks called {name}") from e
