"""What all tests share."""

import pytest

from builders.onnxruntime import options


@pytest.fixture(autouse=True, scope="session")
def exact_engines():
    """Engines are held to a reference, so they are built as with --exact unless a test asks for
    something else; tests/builders/onnxruntime/test_default_precision.py has what users get."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "DEFAULT", options.EXACT)
        yield
