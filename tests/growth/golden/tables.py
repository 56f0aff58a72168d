"""Every plan that is recorded: table -> model -> variant -> a function that makes the plan."""

from tests.growth import mixtures, odd, published, unforeseen, zoo
from tests.growth.golden.cases import Table, of_models
from tests.growth.golden.deeper import DEEPER
from tests.growth.golden.parts import PARTS

REFUSED = {name: model for name, (model, _) in unforeseen.REFUSED.items()}
TABLES: dict[str, Table] = {
    "zoo": of_models(zoo.MODELS),
    "unforeseen": of_models(unforeseen.MODELS | REFUSED),
    "odd": of_models(odd.MODELS),
    "mixtures": of_models(mixtures.MODELS),
    "published": of_models(published.MODELS),
    "deeper": DEEPER,
    "parts": PARTS,
}
