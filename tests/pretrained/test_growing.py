"""A checkpoint of a small model becomes one of a bigger model, in every format."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from safetensors.numpy import load_file, save_file

from trainkit import checkpoint, growth, pretrained
from trainkit._core.paths import named_leaves

X = jnp.linspace(-1.0, 1.0, 15).reshape(3, 5)
quiet = functools.partial(pretrained.grow, say=lambda text: None)


def net(p, x):
    for layer in p["layers"]:
        x = x + jnp.tanh(x @ layer["up"]["kernel"] + layer["up"]["bias"]) @ layer["down"]["kernel"]
    return x @ p["head"]["kernel"]


def shapes(width, depth, outputs=3, dtype=jnp.float32):
    s = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    layer = {"up": {"kernel": s(5, width), "bias": s(width)}, "down": {"kernel": s(width, 5)}}
    return {"layers": [layer] * depth, "head": {"kernel": s(5, outputs)}}


def drawn(like, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(rng.normal(size=x.shape), x.dtype), like)


SMALL, BIG = (net, shapes(4, 2), X), (net, shapes(8, 4), X)
PARAMS = drawn(shapes(4, 2))
NAMED = named_leaves(PARAMS)


def as_torch(params):
    """The same under the names of another program, with matrices (out, in)."""
    end = {"kernel": "weight", "bias": "bias"}
    return {
        "model." + name.replace("/", ".").replace("kernel", end["kernel"]): np.ascontiguousarray(
            x.T
        )
        for name, x in named_leaves(params).items()
    }


def wanted():
    """What growth itself makes of the parameters."""
    plan = growth.plan(*[f for f, _, _ in (SMALL, BIG)], SMALL[1], BIG[1], X)
    return plan.grow(jax.tree.map(jnp.asarray, PARAMS), key=jax.random.key(3))


def test_safetensors_are_written_back_transposed_and_named(tmp_path):
    save_file(as_torch(PARAMS), tmp_path / "small.safetensors", metadata={"format": "pt"})
    grown = quiet(tmp_path / "small.safetensors", tmp_path / "big.safetensors", SMALL, BIG, key=3)
    found = load_file(tmp_path / "big.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found, as_torch(wanted()))
    assert str(grown.names.entries["layers/*/up/kernel"]) == (
        "layers/*/up/kernel = model.layers.*.up.weight (transposed)"
    )
    assert grown.map.proof == "reduced"
    assert grown.change < 1e-5
    assert grown.kept
    assert b'"__metadata__": {"format": "pt"}' in (tmp_path / "big.safetensors").read_bytes()[:200]


def test_shards_are_read_and_written(tmp_path):
    """The largest shard of the new checkpoint is no larger than that of the old one."""
    tensors = as_torch(PARAMS)
    folder = tmp_path / "small"
    folder.mkdir()
    names = list(tensors)
    places = {}
    for i in range(2):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names[i::2]}, folder / file)
        places |= dict.fromkeys(names[i::2], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text("{}")
    said = []
    pretrained.grow(folder, tmp_path / "big", SMALL, BIG, key=3, say=said.append)
    assert "not written: config.json" in said
    index = json.loads((tmp_path / "big" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    found = {}
    for file in files:
        part = load_file(tmp_path / "big" / file)
        assert all(index["weight_map"][name] == file for name in part)
        found |= part
    jax.tree.map(np.testing.assert_array_equal, found, as_torch(wanted()))
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in found.values())


def test_npz_and_msgpack(tmp_path):
    np.savez(tmp_path / "small.npz", **NAMED)
    quiet(tmp_path / "small.npz", tmp_path / "big.npz", SMALL, BIG, key=3)
    tree = serialization.to_state_dict({"params": PARAMS})
    (tmp_path / "small.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    quiet(tmp_path / "small.msgpack", tmp_path / "big.msgpack", SMALL, BIG, key=3)
    read = serialization.msgpack_restore((tmp_path / "big.msgpack").read_bytes())
    with np.load(tmp_path / "big.npz") as file:
        for name, value in named_leaves(wanted()).items():
            np.testing.assert_array_equal(file[name], value)
            np.testing.assert_array_equal(named_leaves(read["params"])[name], value)


def test_orbax_and_checkpoints_of_our_own(tmp_path):
    trees = {"params": PARAMS, "step": np.int32(7)}
    checkpoint.save(tmp_path / "ours", trees)
    said = []
    pretrained.grow(tmp_path / "ours", tmp_path / "ours2", SMALL, BIG, key=3, say=said.append)
    assert "not written: step" in said
    found = checkpoint.restore(tmp_path / "ours2", only="params", say=lambda text: None).state
    jax.tree.map(np.testing.assert_array_equal, found, wanted())
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "theirs", jax.tree.map(jnp.asarray, PARAMS))
    quiet(tmp_path / "theirs", tmp_path / "theirs2", SMALL, BIG, key=3)
    with ocp.StandardCheckpointer() as reader:
        found = reader.restore(tmp_path / "theirs2", jax.tree.map(np.asarray, wanted()))
    jax.tree.map(np.testing.assert_array_equal, found, wanted())


def stack(p, x):
    body = lambda x, w: (x + jnp.tanh(x @ w["up"]) @ w["down"], None)
    return jax.lax.scan(body, x, p["layers"])[0] @ p["head"]


def test_a_stacked_leaf_is_many_tensors(tmp_path):
    """A loop over layers, of a checkpoint with one tensor a layer; bfloat16."""
    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    sizes = lambda n, depth: {
        "layers": {"up": s(depth, 5, n), "down": s(depth, n, 5)}, "head": s(5, 3)
    }  # fmt: skip
    half = lambda *shape: np.asarray(np.random.default_rng(0).normal(size=shape), jnp.bfloat16)
    tensors = {"head.weight": half(3, 5)}
    for i in range(2):
        tensors |= {f"h.{i}.up.weight": half(4, 5), f"h.{i}.down.weight": half(5, 4)}
    save_file(tensors, tmp_path / "small.safetensors")
    grown = quiet(
        tmp_path / "small.safetensors",
        tmp_path / "big.safetensors",
        (stack, sizes(4, 2), X),
        (stack, sizes(8, 3), X),
        how="even",
    )
    assert (
        str(grown.names.entries["layers/up"]) == "layers/up = h.*.up.weight (stacked, transposed)"
    )
    found = load_file(tmp_path / "big.safetensors")
    assert sorted(found) == sorted({*tensors, "h.2.up.weight", "h.2.down.weight"})
    np.testing.assert_array_equal(found["h.0.up.weight"][::2], tensors["h.0.up.weight"])
    assert str(found["h.1.down.weight"].dtype) == "bfloat16"
    assert grown.kept


class Dense(nn.Module):
    """An MLP, or a mixture of copies of it."""

    experts: int = 0

    @nn.compact
    def __call__(self, x):
        d, n, e = x.shape[-1], 6, self.experts
        shape = lambda *s: (e, *s) if e else s
        up = self.param("up", nn.initializers.lecun_normal(), shape(d, n))
        down = self.param("down", nn.initializers.lecun_normal(), shape(n, d))
        if not e:
            return jnp.tanh(x @ up) @ down
        gates = jax.nn.softmax(nn.Dense(e, use_bias=False, name="router")(x))
        hidden = jnp.tanh(jnp.einsum("td,edn->ten", x, up))
        return jnp.einsum("ten,end,te->td", hidden, down, gates)


def test_a_dense_layer_becomes_experts_under_names_that_the_user_gives(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"w1.weight": rng.normal(size=(6, 5)), "w2.weight": rng.normal(size=(5, 6))}
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    save_file(tensors, tmp_path / "small.safetensors")
    files = tmp_path / "small.safetensors", tmp_path / "big.safetensors"
    new = {"up": "experts.*.w1.weight", "down": "experts.*.w2.weight"}
    names = {"names": {"up": "w1.weight", "down": "w2.weight"}, "new_names": new, "how": "experts"}
    names["transpose"] = list(names["names"].values())
    with pytest.raises(
        ValueError, match=r"only the big model has router/kernel: .* new_names=\{'rou"
    ):
        quiet(*files, (Dense(), X), (Dense(3), X), **names)
    new["router/kernel"] = "gate.weight"
    grown = quiet(*files, (Dense(), X), (Dense(3), X), **names)
    found = load_file(files[1])
    for e in range(3):
        for w in ("w1", "w2"):
            np.testing.assert_array_equal(found[f"experts.{e}.{w}.weight"], tensors[f"{w}.weight"])
    assert found["gate.weight"].shape == (3, 5)
    assert grown.change < 1e-5


class Plain(nn.Module):
    """Layers that are numbered in one row, of another shape each."""

    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(6)(x))
        return nn.Dense(2)(x)


def test_new_layers_of_a_numbered_row_go_on_counting(tmp_path):
    params = Plain(2).init(jax.random.key(0), X)["params"]
    tensors = {}
    for i in range(3):
        tensors[f"fc.{i}.weight"] = np.ascontiguousarray(params[f"Dense_{i}"]["kernel"].T)
        tensors[f"fc.{i}.bias"] = np.asarray(params[f"Dense_{i}"]["bias"])
    save_file(tensors, tmp_path / "small.safetensors")
    files = tmp_path / "small.safetensors", tmp_path / "big.safetensors"
    quiet(*files, (Plain(2), X), (Plain(3), X), measure=False)
    found = load_file(files[1])
    np.testing.assert_array_equal(found["fc.3.weight"], tensors["fc.2.weight"])
    assert found["fc.2.weight"].shape == (6, 6)


def test_one_leaf_is_held_at_a_time(tmp_path, monkeypatch):
    """No grown leaf is alive when the next one is made."""
    import weakref

    from trainkit.pretrained import growing

    alive = []
    grown = growing._Grower._grown

    def watched(self, name):
        assert all(ref() is None for ref in alive)
        found = grown(self, name)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(growing._Grower, "_grown", watched)
    save_file(as_torch(PARAMS), tmp_path / "small.safetensors")
    quiet(tmp_path / "small.safetensors", tmp_path / "big.safetensors", SMALL, BIG, measure=False)
    assert len(alive) == len(named_leaves(BIG[1]))


def test_a_failed_growth_leaves_nothing(tmp_path, monkeypatch):
    from trainkit.pretrained import growing

    save_file(as_torch(PARAMS), tmp_path / "small.safetensors")

    def fails(self, name):
        raise OSError("no space left")

    monkeypatch.setattr(growing._Grower, "_grown", fails)
    with pytest.raises(OSError, match="no space"):
        quiet(tmp_path / "small.safetensors", tmp_path / "big.safetensors", SMALL, BIG)
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]


def test_what_is_no_checkpoint_is_refused_in_a_line(tmp_path):
    good = tmp_path / "small.safetensors"
    save_file(as_torch(PARAMS), good)
    (tmp_path / "bad.safetensors").write_bytes(good.read_bytes()[:-8])
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    (tmp_path / "bad.msgpack").write_bytes(b"\xc1")
    (tmp_path / "folder").mkdir()
    out = tmp_path / "out.safetensors"
    for source, target, says in [
        ("none.npz", out, "there is no file or folder"),
        ("bad.safetensors", out, "bad.safetensors is no safetensors file .* is cut off"),
        ("bad.npz", tmp_path / "o.npz", "bad.npz is no .npz file"),
        ("bad.msgpack", tmp_path / "o.msgpack", "bad.msgpack is no msgpack file of Flax"),
        ("folder", out, "is no checkpoint of a known format"),
        ("small.safetensors", tmp_path / "o.npz", "is a .safetensors file like the old one"),
        ("small.safetensors", good, "is there already"),
        ("small.safetensors", tmp_path / "no" / "o.safetensors", "there is no folder"),
    ]:
        with pytest.raises(ValueError, match=says) as caught:
            quiet(tmp_path / source, target, SMALL, BIG)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("small", "says"),
    [
        (net, "the small model must be"),
        ((net,), "the small model must be"),
        ((net, X), "the small model must be"),
        ((Dense, X), "it is the class Dense"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, small, says):
    save_file(as_torch(PARAMS), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=says):
        quiet(tmp_path / "small.safetensors", tmp_path / "big.safetensors", small, BIG)
