"""``cafe export`` in this process."""

import pytest

pytest_plugins = ["tests.support.fixtures"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_is_exported_and_described(model, invoke, tmp_path):
    code, said = invoke("export", model, "-o", tmp_path / "model.onnx")
    assert code == 0, said.err
    assert (tmp_path / "model.onnx").exists()
    assert "model.onnx" in said.err
    code, said = invoke("export", model, "-o", tmp_path / "model.onnx")
    assert code == 1
    assert "--overwrite" in said.err
