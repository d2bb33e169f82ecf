"""How to write a new adapter, and the names that its module imports.

A new adapter is one module that defines three classes and calls :func:`register_method`:

* ``XConfig(LowRankConfig)``, a dataclass with its own settings and ``method = "x"``. A method
  without rank and alpha derives from ``AdapterConfig`` and defines ``scaling_for`` itself.
* ``XLinear(AdapterLinear)`` with the maths. It names its tensors in ``adapter_layer_names``, each
  name starting with the method's prefix (``x_``), and initialises them in ``initial_tensors``;
  tensors that are saved but not trained are named in ``frozen_names``. If
  the update is ``s B (A drop(x))``, or that with weights for each token, ``low_rank`` returns the
  factors and the rest follows: the fused forward, its gradient, merging, the export to a plain
  LoRA. Otherwise ``update`` returns what is added to the frozen layer's output, and
  ``get_delta_weight`` its matrix; where none exists, ``unmergeable_reason`` says why.
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
from toplora_train.adapters._peft.dora import validate_readable as validate_readable
from toplora_train.adapters._peft.layer import AdapterLinear as AdapterLinear
from toplora_train.adapters._peft.layer import FrozenTensors as FrozenTensors
from toplora_train.adapters._peft.layer import (
    UnsupportedByAdapterError as UnsupportedByAdapterError,
)
from toplora_train.adapters._peft.model import AdapterModel as AdapterModel
from toplora_train.adapters._peft.registry import adapter_prefixes as adapter_prefixes
from toplora_train.adapters._peft.registry import register_method as register_method
