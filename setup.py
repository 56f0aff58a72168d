"""The packages of a wheel; everything else about it stands in pyproject.toml."""

from setuptools import find_packages, setup

# In the repository the experiments stand beside the package, which they use. In a wheel they stand
# inside it, where `trainkit train` finds them and no other package's name is taken.
EXPERIMENTS = find_packages(include=["experiments", "experiments.*"])
# To an installer a folder of data is a package too.
DATA = ["bundled", "bundled.mnist", "bundled.shakespeare"]

setup(
    packages=[
        *find_packages(include=["trainkit", "trainkit.*"]),
        *(f"trainkit.{name}" for name in EXPERIMENTS),
        *(f"trainkit.data.{name}" for name in DATA),
    ],
    package_dir={"trainkit.experiments": "experiments"},
)
