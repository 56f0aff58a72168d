"""Which leaves decay: the cases that words anywhere in a path decide wrongly, and their kind."""

import functools

import jax
import jax.numpy as jnp
import pytest

import trainkit.transforms as tt
from trainkit._core.paths import named_leaves

DECAY = """
branch_b/kernel multi_scale_conv/kernel pre_norm_block_0/attn/kernel q/lora_b q/lora_a
normalizer_free_block/conv/kernel bias_free_net/dense/kernel gamma_net/w b/kernel scale/0/weight
embed/embedding head/kernel blocks/attn/qkv/w unnormal norm_1_block/w DenseNormed_0/kernel
beta_vae/encoder/Dense_0/kernel g/w lora/b blocks/0/weight norm_mlp/kernel renormed/w
layers/3/mlp/up_proj/weight
"""
SPARE = """
ln_1/weight rms/g LayerNorm_0/scale RMSNorm_3/weight mamba/A_log attn/bias attn/in_proj_bias
attn/relative_position_bias_table ln_f/weight input_layernorm/weight q_norm/scale bn1/weight
GroupNorm_0/scale norm/0/weight block/norm1/weight batch_stats_bn/w x/gamma x/beta/0 dt_bias dense/b
attn/norm_out/w x/layer_norm x.b norm
"""


def tree(names, shape):
    return {name: jnp.ones(shape) for name in names.split()}


def test_a_leafs_own_name_and_its_parent_decide():
    decays, spared = tt.decay_mask(tree(DECAY, (3, 4))), tt.decay_mask(tree(SPARE, (3, 4)))
    assert [name for name, yes in decays.items() if not yes] == []
    assert [name for name, yes in spared.items() if yes] == []


def test_axes_are_counted_after_those_of_layers():
    params = {
        "blocks": {
            "w": jnp.ones((6, 4, 4)),
            "v": jnp.ones((6, 4)),
            "mamba": {"A_log": jnp.ones((6, 4, 2)), "D": jnp.ones((6, 4))},
        },
        "deep": jnp.ones((2, 3, 4)),
        "head": jnp.ones((4, 2)),
    }
    mask = functools.partial(tt.decay_mask, stacked={"^blocks": 1, "deep": 2})
    wanted = {
        "blocks": {"w": True, "v": False, "mamba": {"A_log": False, "D": False}},
        "deep": False,
        "head": True,
    }
    assert mask(params) == wanted
    # A rule that is told of the stacks itself shows its mask single layers.
    tx = tt.lamb(1.0, weight_decay=1.0, mask=tt.decay_mask, stacked={"^blocks": 1, "deep": 2})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert jax.tree.map(lambda u: bool(u.any()), updates) == wanted
    with pytest.raises(ValueError, match="'blocs', which matches none"):
        tt.decay_mask(params, stacked={"blocs": 1})


def test_the_mask_is_printed_with_its_reasons():
    params = {
        "embed": {"pos": jnp.ones((4, 2))},
        "ln_f": {"weight": jnp.ones((2, 3))},
        "dense": {"bias": jnp.ones((2, 3)), "scale": jnp.ones((2, 3)), "kernel": jnp.ones((2, 3))},
        "temperature": jnp.ones(()),
    }
    lines = tt.decay_table(params, exclude="pos").splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == list(named_leaves(params))
    assert [line.split(")", 1)[1].strip() for line in lines] == [
        "spared: a bias by its name",
        "decays",
        "spared: called 'scale'",
        "spared: excluded by 'pos'",
        "spared: of the norm 'ln_f'",
        "spared: a scalar",
    ]
