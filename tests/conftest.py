"""Fixtures of all tests: every model that the package has, out of one registry."""

from __future__ import annotations

import pytest
from stored_models import MODELS


@pytest.fixture(params=MODELS.values(), ids=MODELS, scope="module")
def any_model(request):
    """Each kind of model in turn, with random weights."""
    return request.param()
