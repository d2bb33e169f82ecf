"""How to write a new adapter, and the names that its module imports.

A new adapter is one module that defines three classes and calls :func:`register_method`:

* ``XConfig(LowRankConfig)``, a dataclass with its own settings and ``method = "x"``. A method
  without rank and alpha derives from ``AdapterConfig`` and defines ``scaling_for`` itself.
* ``XLinear(AdapterLinear)`` with the maths. It names its tensors in ``adapter_layer_names``, each
  name starting with the method's prefix (``x_``), initialises them in ``initial_tensors``, and
  returns from ``update`` what is added to the frozen layer's output. If the update is
  ``x @ (B A).T`` for fixed thin matrices it also defines ``lora_factors`` (if it is ``x @ D.T`` for
  a matrix ``D`` that has no such factors, ``get_delta_weight``); otherwise it gives the reason in
  ``unmergeable_reason``.
* ``XModel(AdapterModel)`` with ``prefix = "x_"`` and ``tuner_layer_cls = XLinear``. Tensors shared
  by several layers live here, each in its own ``nn.ParameterDict`` keyed by adapter name; they are
  created in ``plan_adapter`` and handed to the layers in ``equip_layer``.

For :mod:`toplora_train.adapters.attach` it also defines a function ``peft_config(settings)`` that
builds the config from the keys of its YAML.

Everything else is inherited (:mod:`toplora_train.adapters._peft`): several adapters, switching,
disabling and deleting them, mixed batches (``adapter_names=``), merging, saving and loading,
meta-device loading, quantised base layers.
"""

from toplora_train.adapters._peft.dora import frozen_weight as frozen_weight
from toplora_train.adapters._peft.layer import AdapterLinear as AdapterLinear
from toplora_train.adapters._peft.layer import (
    UnsupportedByAdapterError as UnsupportedByAdapterError,
)
from toplora_train.adapters._peft.model import AdapterModel as AdapterModel
from toplora_train.adapters._peft.registry import adapter_prefixes as adapter_prefixes
from toplora_train.adapters._peft.registry import register_method as register_method
