"""`trainkit grow SRC --model MODULE:FACTORY --small ... --big ... --out DST`."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from trainkit._core.validation import near

HELP = """\
Grows a checkpoint of a small model into one of a bigger model, in the same format, with the same
names. Width, depth, vocabulary and experts grow. The bigger model computes the same function."""

EPILOG = """
the model:
  FACTORY is a function in a Python module of yours, which returns the model and its inputs:

    def llama(width=64, depth=2):
        return Llama(width, depth), jax.ShapeDtypeStruct((1, 8), jnp.int32)

  that is, (module, *inputs) with a Linen or NNX module, or (function, params, *inputs) with a
  function of (params, *inputs) and the shapes of its parameters. --small and --big are the
  arguments of FACTORY.

examples:
  trainkit grow llama/ --model models:llama --small width=64 depth=2 --big width=128 depth=4 \\
      --out llama-big/
  trainkit grow net.npz --model models:net --small width=8 --big width=16 --out big.npz

SRC is a .safetensors file or a folder of shards (as on the Hugging Face Hub), a .msgpack file of
Flax, an .npz file, a folder of Orbax, or a run of trainkit.

names (each option may be repeated):
  Leaves of the model are matched to tensors of SRC by name, shape and transposition. The mapping is
  shown. What can be read in two ways is an error, and one of these decides; * stands for numbers:
    --name 'layers/*/up=h.*.fc1.weight'   this leaf is that tensor
    --new-name 'router=gate.weight'       a leaf of the big model alone is called so in DST
    --transpose 'h.*.fc1.weight'          a square matrix that is transposed, as in PyTorch
    --as-is 'h.*.fc1.weight'              one that is not
    --ignore rotary.inv_freq              a tensor that is no leaf of the model

Exit status: 0 where all is well, 1 where the outputs changed, 2 where it could not be done.
TRAINKIT_TRACEBACK=1 shows where an error comes from."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "trainkit grow",
        usage="trainkit grow SRC --model MODULE:FACTORY --small K=V ... --big K=V ... --out DST",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="the checkpoint of the small model")
    parser.add_argument(
        "--model", metavar="MODULE:FACTORY", required=True, help="a function of yours"
    )
    for side in ("small", "big"):
        parser.add_argument(
            f"--{side}", nargs="+", metavar="K=V", default=[], help=f"the {side} model's arguments"
        )
    parser.add_argument("--out", metavar="DST", required=True, help="a path that is not there yet")
    parser.add_argument(
        "--how", default="preserve", help='the operators, such as "stack" or "experts" (preserve)'
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random values (0)")
    for option, value, what in (
        ("name", "LEAF=TENSOR", "which tensor a leaf is, where names do not say it"),
        ("new-name", "LEAF=TENSOR", "what a leaf is called in DST, if SRC does not have it"),
        ("transpose", "TENSOR", "a square matrix that is transposed"),
        ("as-is", "TENSOR", "a square matrix that is not transposed"),
        ("ignore", "TENSOR", "a tensor that is no leaf of the model"),
    ):
        parser.add_argument(f"--{option}", action="append", default=[], metavar=value, help=what)
    parser.add_argument(
        "--no-measure", action="store_true",
        help="do not run the two models, where they do not fit into memory",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    from trainkit import pretrained

    try:
        factory = _factory(options.model)
        small, big = (
            _made(factory, options.model, side, getattr(options, side)) for side in ("small", "big")
        )
        grown = pretrained.grow(
            options.source,
            options.out,
            small,
            big,
            how=options.how,
            key=options.seed,
            names=dict(_pair("--name", text) for text in options.name),
            new_names=dict(_pair("--new-name", text) for text in options.new_name),
            transpose=options.transpose,
            as_is=options.as_is,
            ignore=options.ignore,
            measure=not options.no_measure,
        )
    except (ValueError, OSError) as error:
        if os.environ.get("TRAINKIT_TRACEBACK"):
            raise
        print(f"trainkit grow: {_with_flags(str(error))}", file=sys.stderr)
        return 2
    return 0 if grown.kept else 1


def _factory(text: str) -> Callable[..., Any]:
    module, colon, name = text.partition(":")
    if not (module and colon and name) or module.endswith(".py") or "/" in module:
        raise ValueError(f"--model {text}: write MODULE:FACTORY, such as models:llama")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise ValueError(
                f"--model {text}: {module} imports {error.name}, which is not there"
            ) from None
        raise ValueError(f"--model {text}: there is no module {module} here or installed") from None
    finally:
        sys.path.remove(os.getcwd())
    if not callable(getattr(found, name, None)):
        known = [each for each, value in vars(found).items() if inspect.isfunction(value)]
        raise ValueError(
            f"--model {text}: {module} has no function {name}{near(name, known) or '.'}"
        )
    return getattr(found, name)


def _made(factory: Callable[..., Any], text: str, side: str, pairs: Sequence[str]) -> Any:
    """What the factory makes of the arguments of one side."""
    given = dict(_pair(f"--{side}", pair) for pair in pairs)
    parameters = inspect.signature(factory).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name not in parameters and not free:
            mend = near(name, parameters) or f"; it has {', '.join(parameters) or 'none'}."
            raise ValueError(f"--{side} {name}={given[name]}: {text} has no argument {name}{mend}")
    for name, p in parameters.items():
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name not in given:
            raise ValueError(f"--{side}: {text} needs {name}; add {name}=...")
    return factory(**{name: _value(value) for name, value in given.items()})


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{option} {text}: write NAME=VALUE")
    return name, value


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _with_flags(message: str) -> str:
    """A message that names arguments, with the options of the command line in their place."""
    for argument, flag in (("names", "--name"), ("new_names", "--new-name")):
        message = re.sub(rf"\b{argument}=\{{'([^']*)': '([^']*)'\}}", rf"{flag} '\1=\2'", message)
        message = re.sub(rf"^{argument}:", f"{flag}:", message)
    for option in ("transpose", "as_is", "ignore", "how"):
        message = message.replace(f"{option}='", f"--{option.replace('_', '-')} '")
        message = re.sub(rf"^{option}:", f"--{option.replace('_', '-')}:", message)
    return message
