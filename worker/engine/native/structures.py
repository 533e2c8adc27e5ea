"""The structures of the native code (model.h, noise.h, product.h, rounded_product.h), as ctypes."""

from __future__ import annotations

import ctypes

from worker.engine.forward import Draw

Address = ctypes.c_void_p


class NormStructure(ctypes.Structure):
    _fields_ = (("weight", Address), ("bias", Address))


class LinearStructure(ctypes.Structure):
    _fields_ = (
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("panels", Address),
        ("bias", Address),
        ("scales", Address),
    )


class LayerStructure(ctypes.Structure):
    _fields_ = (
        *((name, NormStructure) for name in ("attention_norm", "query_norm", "key_norm", "mlp_norm")),
        ("projections", LinearStructure * 3),
        *((name, LinearStructure) for name in ("attention_output", "gate", "up", "down")),
    )


class RoundedWeightsStructure(ctypes.Structure):
    _fields_ = (("whole", LinearStructure), *((name, Address) for name in ("offsets", "lengths", "errors")))


class ModelStructure(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner")),
        *((name, ctypes.c_int64) for name in ("type", "is_rms", "activation")),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("embeddings", Address),
        ("positions", Address),
        ("final_norm", NormStructure),
        ("head", LinearStructure),
        ("rounded_head", RoundedWeightsStructure),
    )


class NoiseStructure(ctypes.Structure):
    """`noise` of noise.h."""

    _fields_ = (("inverse_temperature", ctypes.c_float), ("low", ctypes.c_uint32), ("high", ctypes.c_uint32))

    @classmethod
    def of(cls, draw: Draw | None) -> NoiseStructure:
        if draw is None:
            return cls()
        return cls(draw.inverse_temperature, draw.key & 0xFFFFFFFF, draw.key >> 32)


class BatchStructure(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "asked_tokens", "threads", "may_shortlist")),
        *(
            (name, Address)
            for name in (
                "cache",
                "token_ids",
                "rows",
                "positions",
                "asked",
                "logit_rows",
                "noises",
                "cosines",
                "sines",
            )
        ),
        *((name, Address) for name in ("logits", "best", "answered", "layers_done", "scratch")),
    )
