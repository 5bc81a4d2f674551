from copy import deepcopy

import pytest
import torch

from encoders import batch, random_model
from intaglio.errors import UserError
from intaglio.measure.backends.sparse import fitting_layers, has_sparse_cores, semi_structured
from intaglio.stages.prune import prune_now
from intaglio.study.options import PruneOptions

WIDE = {"hidden_size": 64, "intermediate_size": 128}


def pruned(**changes):
    model = random_model(**changes)
    prune_now(model, PruneOptions(structure="2:4"))
    return model


def test_sparse_layers_of_fitting_sizes_are_found():
    model = pruned(**WIDE)
    assert len(fitting_layers(model)) == 12
    with torch.no_grad():
        # Three of these four are not zero any more.
        model.bert.encoder.layer[1].output.dense.weight[5, 8:11] = 1.0
    assert "1.output" not in fitting_layers(model)
    assert len(fitting_layers(model)) == 11
    assert not fitting_layers(random_model(**WIDE))
    assert not fitting_layers(pruned())


@pytest.mark.skipif(has_sparse_cores(), reason="of a machine without such a GPU")
def test_without_sparse_tensor_cores_there_are_no_sparse_kernels():
    with pytest.raises(UserError, match=r"compute capability 8\.0"):
        semi_structured(pruned(**WIDE))


@pytest.mark.skipif(not has_sparse_cores(), reason="needs a GPU with sparse tensor cores")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_kernels_compute_what_dense_ones_do(dtype):
    model = pruned(**WIDE)
    inputs = {name: tensor.cuda() for name, tensor in batch(model).items()}
    dense = deepcopy(model).to("cuda", dtype).eval()
    sparse = semi_structured(model, dtype)
    assert isinstance(model.bert.encoder.layer[0].output.dense.weight, torch.sparse.SparseSemiStructuredTensor)
    with torch.inference_mode():
        difference = (sparse(**inputs).logits - dense(**inputs).logits).float().abs().max()
    # A few units in the last place of 16 bits.
    assert difference < (2e-2 if dtype == torch.float16 else 1e-1)
    with pytest.raises(UserError, match="no linear layer is 2:4 sparse"):
        semi_structured(random_model(**WIDE), dtype)
