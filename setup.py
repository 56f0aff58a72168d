"""The packages of a wheel; everything else about it stands in pyproject.toml."""

from setuptools import find_packages, setup

# In the repository the experiments stand beside the package, which they use. In a wheel they stand
# inside it, where `trainkit train` finds them and no other package's name is taken.
EXPERIMENTS = find_packages(include=["experiments", "experiments.*"])

setup(
    packages=[
        *find_packages(include=["trainkit", "trainkit.*"]),
        *(f"trainkit.{name}" for name in EXPERIMENTS),
    ],
    package_dir={"trainkit.experiments": "experiments"},
)
