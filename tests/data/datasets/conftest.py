import pytest

from configs import common


@pytest.fixture
def data(tmp_path):
    """Returns the default `config.data` with temporary folders."""
    data = common.get_config().data
    data.root = str(tmp_path / "source")
    data.data_dir = str(tmp_path / "prepared")
    return data
