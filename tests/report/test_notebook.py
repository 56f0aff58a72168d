"""`fit` in a notebook: a bar or lines, an interrupt that stops it in order, and its report."""

import pytest

from trainkit.loop.record import FitResult
from trainkit.loop.stopping import Best

CELLS = [
    """
import os, signal, threading, trainkit, optax, numpy as np, jax.numpy as jnp
from trainkit.data import Sampler
def loss_fn(params, model_state, batch, rng):
    return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), len(batch))
tx = optax.sgd(0.1)
step = trainkit.make_train_step(loss_fn, tx)
state = trainkit.TrainState.create({"mean": jnp.zeros(())}, tx)
data = Sampler(np.arange(8, dtype=np.float32), 4)
trainkit.fit(step, state, data, steps=4, out="run")
""",
    """
threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
print(trainkit.fit(step, state, data, steps=10**9).stopped)
""",
]


def result(**changes):
    return FitResult(
        state=None, metrics={"loss": 0.25}, evaluation={"accuracy": 1.0}, best=Best(),
        evaluated_at=1,
        stopped="steps<4", steps=4000, epochs=1.0, examples=8, flops=0.0, seconds=1.0, **changes
    )  # fmt: skip


def test_a_result_shows_itself_with_its_report(tmp_path):
    page = tmp_path / "report.html"
    page.write_text('<p class="a">&lt;</p>')
    shown = result(report=page)._repr_html_()
    assert "steps&lt;4, after 4,000 steps" in shown
    assert "loss 0.25 · evaluation/accuracy 1" in shown
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;&amp;lt;&lt;/p&gt;"' in shown
    assert "iframe" not in result()._repr_html_()


def test_a_run_in_a_real_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
    texts = [
        "".join(
            str(output.get("text", "")) + str(output.get("data", "")) for output in cell.outputs
        )
        for cell in book.cells
    ]
    assert "Ended after 4 steps: steps=4 reached" in texts[0]
    assert "iframe srcdoc" in texts[0]
    assert "interrupted by SIGINT" in texts[1]
