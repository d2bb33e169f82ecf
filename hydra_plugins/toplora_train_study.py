"""The plugins of studies: Hydra takes launchers and sweepers from this namespace only."""

from toplora_train.study import launcher, sweeper


class StudyLauncher(launcher.StudyLauncher):
    """See :class:`toplora_train.study.launcher.StudyLauncher`."""


class Combinations(sweeper.Combinations):
    """See :class:`toplora_train.study.sweeper.Combinations`."""


class Phases(sweeper.Phases):
    """See :class:`toplora_train.study.sweeper.Phases`."""
