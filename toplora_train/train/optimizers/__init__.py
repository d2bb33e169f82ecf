"""Optimizers that treat matrices as such, a module each.

A module is named as in ``optimizer=NAME`` and defines::

    build_optimizer(groups, *, model, lr, betas, eps, **settings) -> torch.optim.Optimizer

with ``groups`` from :func:`toplora_train.train.optimizer.parameter_groups`, and the keys of
``optimizer.settings``. None works on sharded matrices.
"""
