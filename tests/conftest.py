"""Shared fixtures. The reference folder (goldens, photographs) stands beside the checkout where CI has it; a user's
checkout has none, and the tests that need it skip with a reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

# The suite is many small networks: threads cost more than they bring, and one thread makes sums reproducible.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden numbers and test photographs."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("no reference folder (golden numbers, photographs) beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def fill(shared):
    """The reference module `fill_weights`: weights and inputs as a function of their names."""
    spec = importlib.util.spec_from_file_location("fill_weights", shared / "golden" / "fill_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
