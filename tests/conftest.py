"""Fixtures of all tests: every model that the package has, out of one registry."""

from __future__ import annotations

import os

# Tests run in a process for each core: threads that wait for one another would take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import pytest
from hypothesis import settings
from stored_models import MODELS

settings.register_profile("same", derandomize=True)  # the same examples each time: no test fails by chance
settings.load_profile("same")


@pytest.fixture(params=MODELS.values(), ids=MODELS, scope="module")
def any_model(request):
    """Each kind of model in turn, with random weights."""
    return request.param()
