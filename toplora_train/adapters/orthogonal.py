"""Orthogonal Projection LoRA: LoRA that cannot touch the top singular directions of its weight.

Paper: "OPLoRA: Orthogonal Projection LoRA Prevents Catastrophic Forgetting" (arXiv 2510.13003).
The optimizer that is called OPLoRA, too (arXiv 2602.16456), is ``optimizer=lorsum``.

    W0 = U S V^T,   P_L = I - U_k U_k^T,   P_R = I - V_k V_k^T
    y  = W0 x + s (P_L B) (A P_R) drop(x)

Shapes: W0 (m, n) frozen, U_k (m, k) and V_k (n, k) its top k singular vectors, frozen, A (r, n),
B (m, r); x (..., n), y (..., m). The top k singular values and vectors of W0 + s P_L B A P_R are
those of W0 as long as no new singular value exceeds them. Two things are our reading, as the
paper's are not known to us: k (``protect``, default 16), and s = alpha / r (or alpha / sqrt(r)),
as in LoRA.

Start: A uniform in +-1/sqrt(n), B zero, so that the update is exactly zero. U_k and V_k come from a
whole float64 decomposition of each adapted weight, once; they are saved in the adapter's file in
float32, so that loading decomposes nothing.

Parameters: r (n + m) per module, as LoRA, and k (n + m) numbers that are not trained. Cost: LoRA's,
and the projection of A and B once per step, 4 r k (n + m) operations. Merges: the update is the
fixed matrix s P_L B A P_R; exported as a plain LoRA, its factors are A P_R and P_L B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toplora_train.adapters.autocast import without_autocast
from toplora_train.adapters.base import (
    AdapterLinear,
    AdapterModel,
    FrozenTensors,
    frozen_weight,
    register_method,
    validate_readable,
)
from toplora_train.adapters.checks import check_keys, check_positive_integer
from toplora_train.adapters.configs import LowRankConfig
from toplora_train.adapters.low_rank import LowRank


@dataclass
class OrthogonalConfig(LowRankConfig):
    """PEFT config of Orthogonal Projection LoRA: the settings of LoRA and ``protect``.

    Args:
        protect: How many of the top singular directions of each weight are protected, k.
    """

    method: ClassVar[str] = "orthogonal"

    protect: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integer("protect", self.protect)
        # PEFT saves configs with inference_mode on: what it describes comes from the file.
        self._of_file = self.inference_mode


class OrthogonalLinear(AdapterLinear):
    """A frozen linear layer with the update ``s (P_L B) (A P_R) drop(x)``."""

    prefix: ClassVar[str] = "orthogonal_"
    adapter_layer_names = ("orthogonal_A", "orthogonal_B")
    frozen_names = ("orthogonal_U", "orthogonal_V")

    orthogonal_A: nn.ParameterDict  # noqa: N815 - the paper's capitals
    orthogonal_B: nn.ParameterDict  # noqa: N815  # the paper's capital
    orthogonal_U: FrozenTensors  # noqa: N815  # the paper's capital
    orthogonal_V: FrozenTensors  # noqa: N815  # the paper's capital
    _may_be_unread = False

    def initial_tensors(self, config: OrthogonalConfig, module_name: str) -> Mapping[str, Tensor]:
        """A uniform in +-1/sqrt(n), B zero, and the top singular vectors of the weight.

        Raises:
            ValueError: Nothing would be left to train, or the weight cannot be read.
        """
        r, k = config.rank_for(module_name), config.protect
        n, m = self.in_features, self.out_features
        if k >= min(n, m):
            raise ValueError(
                f"protect must be below {min(n, m)}, the smaller side of {module_name}, not {k}: "
                "nothing would be left to train"
            )
        A = torch.empty(r, n).uniform_(-(n**-0.5), n**-0.5)
        # From a file: read after this. NaN shows where they are not.
        U, V = torch.full((m, k), torch.nan), torch.full((n, k), torch.nan)
        self._may_be_unread |= config._of_file
        if not (A.is_meta or config._of_file):
            validate_readable(module_name, self.get_base_layer())
            U, V = self._singular_vectors(k)
        return {
            "orthogonal_A": A,
            "orthogonal_B": torch.zeros(m, r),
            "orthogonal_U": U,
            "orthogonal_V": V,
        }

    def _singular_vectors(self, k: int) -> tuple[Tensor, Tensor]:
        left, _, right = torch.linalg.svd(frozen_weight(self).double(), full_matrices=False)
        return left[:, :k].float().contiguous(), right[:k].T.float().contiguous()

    @torch.no_grad()
    def _compute_unread(self) -> None:
        """The vectors that no file has given: a saved config may also start a new adapter."""
        self._may_be_unread = False
        for name in self.configs:
            U, V = self.orthogonal_U[name], self.orthogonal_V[name]
            if not U.is_meta and U.isnan().any():
                for tensor, found in zip((U, V), self._singular_vectors(U.shape[1]), strict=True):
                    tensor.copy_(found)

    def low_rank(self, adapter_name: str) -> LowRank:
        """``A P_R``, ``P_L B`` and s; not in autocast's half precision, which leaks through P."""
        if self._may_be_unread:
            self._compute_unread()
        A, B = self.orthogonal_A[adapter_name], self.orthogonal_B[adapter_name]
        U, V = (
            self.orthogonal_U[adapter_name].to(B.dtype),
            self.orthogonal_V[adapter_name].to(A.dtype),
        )
        with without_autocast(A):
            return LowRank(A - (A @ V) @ V.T, B - U @ (U.T @ B), self.scaling[adapter_name])


class OrthogonalModel(AdapterModel):
    """The tuner model of Orthogonal Projection LoRA."""

    prefix = "orthogonal_"
    tuner_layer_cls = OrthogonalLinear


def peft_config(settings: Mapping[str, Any]) -> OrthogonalConfig:
    """The PEFT config for the keys of ``conf/adapter/orthogonal.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, OrthogonalConfig.setting_names())
    return OrthogonalConfig(**settings)


register_method("orthogonal", OrthogonalConfig, OrthogonalModel)
