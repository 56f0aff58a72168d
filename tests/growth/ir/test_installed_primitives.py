"""Every primitive of the installed JAX is in a table, or here with the reason why it is in none.

A primitive that a new version brings fails this test: it gets a rule, or a line here.
"""

import importlib
import pkgutil

import jax
import jax._src
import pytest
from jax.extend import core

from trainkit._core import compat
from trainkit.growth.ir.primitives import TABLE
from trainkit.growth.rules import RULES

OTHERS = {
    "has no operands: a constant":
        "axis_index create_token empty empty2 iota rng_uniform after_all platform_index "
        "iota_2x32_shape create_linear dim_as_value unreachable",
    "draws random numbers: from keys, which do not grow":
        "random_bits random_clone random_fold_in random_gamma random_seed random_split "
        "random_unwrap random_wrap rng_bit_generator threefry2x32 threefry4x32 philox2x32 "
        "philox4x32 igamma_grad_a prng_join prng_random_bits prng_seed prng_split "
        "stochastic_round",
    "speaks to other devices: plans are made of one device's program":
        "all_gather all_gather_done all_gather_invariant all_gather_reduced "
        "all_gather_reduced_start all_gather_start all_to_all all_to_all_done all_to_all_start "
        "pbroadcast pbroadcast_dynamic pbroadcast_done pbroadcast_start pmax pmin ppermute "
        "ppermute_done ppermute_start precv preduced psend psum psum_done psum_invariant "
        "psum_invariant_start psum_start ragged_all_to_all reduce_scatter reduce_scatter_done "
        "reduce_scatter_start reduced_vary_cast reduced_vary_cast_p shard_map unreduced_pmax "
        "unreduced_pmin unreduced_psum unreduced_psum_start unreduced_reduce_scatter "
        "unreduced_reduce_scatter_start vary_unreduced_cast vary_unreduced_cast_p stage "
        "mpmd_map",
    "runs what is not JAX":
        "buffer_callback call_exported cudnn_fusion custom_fusion custom_partitioning "
        "dot_product_attention_bwd dot_product_attention_bwd_wrapper "
        "dot_product_attention_fp8_bwd dot_product_attention_fp8_bwd_wrapper "
        "dot_product_attention_fp8_fwd dot_product_attention_fp8_fwd_wrapper "
        "dot_product_attention_fwd dot_product_attention_fwd_wrapper ffi_call inspect_sharding "
        "io_callback pallas_call pure_callback scaled_dot scaled_matmul scaled_matmul_wrapper "
        "tpu_custom_call",
    "reads or writes references":
        "accum_grad_in_ref addupdate box_get box_set empty_ref free_ref freeze get get_global "
        "masked_load masked_swap new_box new_log new_ref run_scoped run_state swap log_extend "
        "log_read",
    "inside of kernels alone":
        "core_map delay dma_start dma_wait fusible get_barrier_semaphore jaxpr_call "
        "matmul_acc_lhs matmul_pop matmul_push_rhs mulhi multiple_of num_programs pack_dtype "
        "pack_elementwise program_id reciprocal roll semaphore_read semaphore_signal "
        "semaphore_wait trace_value unpack_dtype unpack_elementwise",
    "is expanded, or made by JAX's own transformations":
        "call call_hi_primitive call_hi_primitive_linearized custom_jvp_call_jaxpr custom_lin "
        "dce_sink linear_call remat_opt compute_on pin unpin tie program_order",
    "says that something holds, or waits":
        "add_dependency check debug_callback debug_print shape_assertion shard_alike "
        "dimension_size",
    "no rule yet: what is grown through it is refused":
        "approx_top_k bitcast bitcast_convert_type broadcast_to cholesky_update "
        "custom_linear_solve from_edtype to_edtype geqp3 geqrf ormqr reduce reduce_window "
        "select_and_gather_add select_and_scatter select_and_scatter_add symmetric_product "
        "tridiagonal tridiagonal_solve with_memory_space_constraint zeros_like",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_every_primitive_is_known():
    kernels = ("pallas", "mosaic", "tpu", "cuda", "rocm", "triton", "test", "export", "tools")
    names = set()
    for found in pkgutil.walk_packages(jax._src.__path__, "jax._src."):
        if not any(word in found.name for word in kernels):
            try:
                module = importlib.import_module(found.name)
            except (ImportError, AttributeError):
                continue  # of another platform
            names.update(x.name for x in vars(module).values() if isinstance(x, core.Primitive))
    assert len(names) > 200
    without = {name for line in OTHERS.values() for name in line.split()}
    known = RULES.keys() | TABLE.keys() | compat.WRITTEN.keys() | without
    assert not {n for n in names - known if not n.startswith("thunky.")}  # one kind of GPU kernel
