"""The package openai: of this Python, or of the one in .venv, which then runs the test; without either it is skipped."""

import os
import pathlib
import sys

SKIPPED = 77  # ctest's SKIP_RETURN_CODE
VENV_PYTHON = pathlib.Path(os.environ.get("CONVOY_SOURCE_DIR", ".")).resolve() / ".venv/bin/python"
try:
    import openai
except ImportError:
    if VENV_PYTHON.exists() and pathlib.Path(sys.prefix) != VENV_PYTHON.parents[1]:
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    print("skipped: the package openai is not installed; scripts/test installs it into .venv")
    sys.exit(SKIPPED)
