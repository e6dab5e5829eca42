import pytest

from configs import common


@pytest.fixture
def data(tmp_path):
    """The defaults of `config.data`, with folders of the test's own."""
    data = common.get_config().data
    data.root = str(tmp_path / "source")
    data.data_dir = str(tmp_path / "prepared")
    return data
