"""A folder of prepared data sets that the tests of loading share."""

import pytest

from jaxcert import data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    data.load("digits", "test", data_dir=root)
    return root
