"""The plugins of studies: Hydra takes launchers and sweepers from this namespace only.

Hydra imports every module here at every start except those with an underscore, which are registered
when they are needed, see :class:`toplora_train.study.launcher.StudyStart`.
"""

from toplora_train.study import launcher, sweeper


class StudyLauncher(launcher.StudyLauncher):
    """See :class:`toplora_train.study.launcher.StudyLauncher`."""


class Combinations(sweeper.Combinations):
    """See :class:`toplora_train.study.sweeper.Combinations`."""


class Phases(sweeper.Phases):
    """See :class:`toplora_train.study.sweeper.Phases`."""
