"""Mistakes with a run: its options, hooks, loggers, data, checkpoints, and the command."""

import jax
import optax

import trainkit
from tests.mistakes.parts import (
    ROWS,
    TX,
    Net,
    file_of,
    fit,
    fresh,
    model,
    placed,
    rows,
    saved,
    softmax,
    step,
)
from trainkit import checkpoint, hooks, loggers, schedules
from trainkit.data import Sampler, split

FIT = {
    "no budget": (lambda: fit(steps=None), "never end", "give it steps="),
    "a budget of floats": (lambda: fit(steps=1e3), "steps must be", "an integer"),
    "a budget of no steps": (lambda: fit(steps=0), "steps must be", "None is no limit"),
    "epochs as text": (lambda: fit(steps=None, epochs="10"), "epochs must be", "a number"),
    "an option of fit with a typing error": (
        lambda: fit(log_evry=10),
        "'log_evry'",
        "did you mean 'log_every'",
    ),
    "the step called": (
        lambda: fit(step=placed),
        "step must be",
        "(state, batch) -> (state, metrics)",
    ),
    "a state that was never made": (
        lambda: fit(state=lambda: None),
        "state must be",
        "TrainState.create",
    ),
    "arrays in place of batches": (
        lambda: fit(data=ROWS),
        "data must be",
        "trainkit.data.Sampler(arrays",
    ),
    "no data": (lambda: fit(data=[]), "data must give batches", "make a new one"),
    "a class of stopping": (
        lambda: fit(early_stopping=trainkit.EarlyStopping),
        "early_stopping must be",
        "trainkit.EarlyStopping('loss', patience=3)",
    ),
    "stopping by a metric that nobody computes": (
        lambda: fit(
            evaluate=lambda state: {"loss": 1.0},
            early_stopping=trainkit.EarlyStopping("f1"),
            eval_every=1,
        ),
        "'f1'",
        "Give EarlyStopping",
    ),
    "stopping without an evaluation": (
        lambda: fit(early_stopping=trainkit.EarlyStopping("loss")),
        "early_stopping",
        "give evaluate=",
    ),
    "the wrong word for a direction": (
        lambda: trainkit.EarlyStopping("accuracy", mode="maximum"),
        "mode",
        "did you mean 'max'",
    ),
    "one hook without a list": (
        lambda: fit(hooks=lambda now: None),
        "hooks must be a list",
        "such as [hook]",
    ),
    "a hook without now": (lambda: fit(hooks=[lambda: None]), "hooks[0]", "(now) -> Change | None"),
    "a hook that returns a state": (
        lambda: fit(hooks=[lambda now: now.state]),
        "the hook",
        "None or a trainkit.Change",
    ),
    "the class of a hook": (
        lambda: fit(hooks=[hooks.ReduceOnPlateau]),
        "hooks[0]",
        "give ReduceOnPlateau()",
    ),
    "averages that the rule does not keep": (
        lambda: fit(averages=True, evaluate=lambda s: {"loss": 0.0}),
        "averages",
        "average_params(tx, decay)",
    ),
    "a config with a module": (
        lambda: fit(out="run", config={"rng": object()}),
        "config['rng']",
        "leave it out",
    ),
    "a config with a function": (
        lambda: fit(out="run", config={"rate": schedules.cosine(1.0, 10)}),
        "config['rate']",
        "pass a number, a string or a named function",
    ),
    "a number for the folder": (lambda: fit(out=3), "out must be", 'such as "runs/mine"'),
    "a config that is no dict": (
        lambda: fit(out="run", config="mnist"),
        "config must be",
        "such as {'learning_rate': 1e-3}",
    ),
    "an odd number of steps for calls of two": (
        lambda: fit(step=lambda: step(steps_per_call=2), steps=3),
        "steps=3",
        "steps_per_call=2",
    ),
    "a word for resume": (
        lambda: fit(out="run", resume="yes"),
        "resume must be",
        "'new hyperparameters'",
    ),
}

HOOKS = {
    "a plateau with a typing error": (
        lambda: hooks.ReduceOnPlateau("loss", patiense=3),
        "'patiense'",
        "did you mean 'patience'",
    ),
    "a plateau that raises": (
        lambda: hooks.ReduceOnPlateau("loss", factor=10),
        "factor",
        "must be in (0, 1)",
    ),
    "a plateau's function for a metric": (
        lambda: hooks.ReduceOnPlateau(lambda m: m["loss"]),
        "metric",
        "must be a string",
    ),
    "a plateau of a rate that is no name": (
        lambda: hooks.ReduceOnPlateau("loss", rate=1e-3),
        "rate",
        "give the name of a learning rate",
    ),
    "a logger with a typing error": (
        lambda: loggers.WandB(projct="mine"),
        "'projct'",
        "did you mean 'project'",
    ),
    "a mode of the logger": (
        lambda: loggers.WandB("mine", mode="off"),
        "mode",
        "did you mean 'offline'",
    ),
    "an experiment by number": (lambda: loggers.MLflow(3), "experiment", "give its name"),
    "a file that is no path": (lambda: loggers.CSV(3), "path", 'such as "runs/mine"'),
    "the name of a logger": (
        lambda: fit(loggers=["wandb"]),
        "loggers[0]",
        "such as trainkit.loggers.TensorBoard",
    ),
    "the class of a logger": (
        lambda: fit(loggers=[loggers.Terminal]),
        "loggers[0]",
        "give Terminal(…)",
    ),
    "one logger without a list": (
        lambda: fit(loggers=loggers.Terminal()),
        "loggers must be a list",
        "such as [",
    ),
    "an object that cannot log": (
        lambda: fit(loggers=[object()]),
        "loggers[0]",
        "start, log and close",
    ),
    "a logger into the run's own file": (
        lambda: fit(out="run", loggers=[loggers.CSV("run/metrics.csv")]),
        "loggers[0]",
        "give it another path",
    ),
}

DATA = {
    "more examples a batch than there are": (
        lambda: Sampler(ROWS, 32),
        "batch_size=32",
        "from 1 to the number of examples, 16",
    ),
    "a batch of floats": (lambda: Sampler(ROWS, 8.0), "batch_size", "an integer"),
    "leaves of two lengths": (
        lambda: Sampler(rows(x=ROWS["x"][:10]), 4),
        "data/x has 10",
        "the same number",
    ),
    "a seed that is a key": (
        lambda: Sampler(ROWS, 8, seed=jax.random.key(0)),
        "seed",
        "must be an integer",
    ),
    "a file name as data": (
        lambda: Sampler("train.npz", 8),
        "data must be",
        "arrays of one leading size",
    ),
    "a position of other data": (
        lambda: Sampler(ROWS, 8).restore((0, 800)),
        "position",
        "Use the same data",
    ),
    "a share in percent": (
        lambda: split(ROWS, validation=20),
        "validation",
        "a fraction of the data",
    ),
    "shares that leave nothing": (
        lambda: split(ROWS, validation=0.5, test=0.5),
        "validation=0.5 and test=0.5",
        "leave none to train on",
    ),
    "a share by another name": (
        lambda: split(ROWS, val=0.2),
        "'val'",
        "Known: validation, test, seed",
    ),
    "a loader of numbers": (lambda: fit(data=[1, 2, 3]), "batch must be", "np.asarray"),
    "a batch too large, padded to less": (
        lambda: trainkit.data.pad_batch(ROWS, 12),
        "size=12",
        "give the size of the largest batch",
    ),
    "epochs of a generator": (
        lambda: fit(data=(rows() for _ in range(9)), steps=None, epochs=2.5),
        "epochs=2.5",
        "use steps= instead",
    ),
}

CHECKPOINTS = {
    "a folder that is not there": (
        lambda: checkpoint.restore("runs/mien"),
        "mien",
        "give the folder of a run",
    ),
    "a pattern with a typing error": (
        lambda: checkpoint.restore(saved(), only="parms"),
        "only='parms'",
        "did you mean 'params'",
    ),
    "parameters in place of the whole": (
        lambda: checkpoint.restore(saved(), fresh().params),
        "Dense_0/bias",
        "only='params'",
    ),
    "another model's state": (
        lambda: checkpoint.restore(saved(), trainkit.from_linen(Net(8), softmax).state(TX, ROWS)),
        "params/Dense_0/kernel",
        "or grow the model with grow=",
    ),
    "a step that was never saved": (lambda: checkpoint.restore(saved(), step=7), "step 7", "[0]"),
    "an option of restore with a typing error": (
        lambda: checkpoint.restore(saved(), rname={}),
        "'rname'",
        "did you mean 'rename'",
    ),
    "fresh leaves without a tree": (
        lambda: checkpoint.restore(saved(), fresh="params/Dense_1"),
        "fresh=",
        "needs `into`",
    ),
    "a dtype that is none": (
        lambda: checkpoint.restore(saved(), only="params", cast="bf16"),
        "cast must be",
        'such as "bfloat16"',
    ),
    "growing without the rule": (
        lambda: checkpoint.restore(saved(), grow=lambda state: state),
        "grow=",
        'pass only="params"',
    ),
    "the step of a file": (
        lambda: checkpoint.restore(file_of(b"junk"), step=3),
        "step=3",
        "omit step",
    ),
    "a file that is no checkpoint": (
        lambda: checkpoint.restore(file_of(b"junk")),
        "file.safetensors",
        "is not a safetensors file",
    ),
    "the folder of another run": (
        lambda: (
            fit(out="run", config={"width": 4}),
            fit(out="run", config={"width": 8}),
        ),
        "width: 4 there, 8 now",
        "overwrite=True",
    ),
    "the folder of another rule": (
        lambda: (
            fit(out="run"),
            fit(
                out="run",
                step=lambda: trainkit.make_train_step(model(), optax.adam(1e-3)),
                state=lambda: model().state(optax.adam(1e-3), ROWS),
            ),
        ),
        "optimizer:",
        "give those of then, or choose another output folder",
    ),
    "a folder of other files": (
        lambda: fit(out=file_of(b"a thesis").parent),
        "file.safetensors",
        "give an empty or a new one as out=",
    ),
    "nothing to keep": (lambda: checkpoint.Checkpointer("run", keep=0), "keep", "at least 1"),
}

CLI = {
    "a command with a typing error": ("trian", "'trian'", "did you mean 'train'"),
    "an experiment with a typing error": ("train mnits", "'mnits'", "did you mean 'mnist'"),
    "an option of the command with a typing error": (
        "train mnist --epoch 3",
        "--epoch",
        "--epochs INT",
    ),
    "a value of another kind": ("train mnist --epochs three", "--epochs", "INT"),
    "a rule without its module": ("laws adam", "'adam'", "expected package.module:factory"),
    "a module that is not there": ("laws optaxx:adam", "cannot import optaxx", "No module named"),
    "a rule that the module lacks": ("laws optax:adamm", "adamm", "did you mean 'adam'"),
    "an argument without a name": ("laws optax:adam 1e-3", "'1e-3'", "expected name=value"),
    "a claim of the command": (
        "laws optax:adam learning_rate=1e-3 --claim ood",
        "'ood'",
        "did you mean 'odd'",
    ),
    "a folder without checkpoints": ("checkpoints nowhere", "nowhere", "give the folder of a run"),
    "growing without a model": (
        "grow body.safetensors --out big.safetensors",
        "--model",
        "usage: trainkit grow",
    ),
}
