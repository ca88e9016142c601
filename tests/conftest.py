"""Settings of all tests: none from outside, and no deadlines on busy machines."""

import hypothesis
import pytest

hypothesis.settings.register_profile("tgems", deadline=None)
hypothesis.settings.load_profile("tgems")


@pytest.fixture(scope="session", autouse=True)
def no_settings():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TGEMS_MODEL", raising=False)
        patch.delenv("TGEMS_NUM_THREADS", raising=False)
        patch.delenv("TGEMS_SPIN", raising=False)
        # It is for the whole process, and would slow down the tests of training.
        patch.setattr("tgems_edge.cli.model_file._return_freed_memory", lambda: None)
        yield
