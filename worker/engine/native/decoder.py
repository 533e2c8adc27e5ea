"""Runs a whole decoder in one call of C, see decoder.c.

For a step of few tokens, torch's products read weights at half the memory's bandwidth, and its some 300
operations cost as much again. See docs/engines.md.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.forward import Draw
from worker.engine.memory import large_zeros
from worker.engine.native.attention_kernel import WIDE, AttentionKernel
from worker.engine.native.library import NativeLibrary
from worker.engine.native.panels import in_panels
from worker.engine.native.rotary import RotaryAngles
from worker.engine.native.rows import RowStates
from worker.engine.native.shortlist import Shortlists, rounded_weights
from worker.engine.native.structures import (
    BatchStructure,
    LayerStructure,
    LinearStructure,
    ModelStructure,
    NoiseStructure,
    NormStructure,
    RoundedWeightsStructure,
)
from worker.engine.native.weights import Linear, Norm, Weights, read_weights

ACTIVATIONS = {"relu": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "silu": 3, "swish": 3}
"""transformers' names -> decoder.c's numbers."""

WEIGHT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""torch's types -> product.h's numbers."""

HIGHEST_INT8 = 127


class Decoder:
    """A model with packed weights. Not for several threads at once."""

    def __init__(
        self, weights: Weights, library: NativeLibrary, max_positions: int, *, is_int8: bool = False
    ) -> None:
        """Takes the weights of linear layers away from their model, which cannot run any more.

        weights: from `decodable_weights`. max_positions: the greatest length of a sequence.
        is_int8: whether linear layers' weights are held as 8-bit integers with a scale for each output. The
            rest of the model and the cache are float32 then.
        """
        self._library = library
        self._dtype = torch.int8 if is_int8 else weights.head.weight.dtype
        self._vocab_size, hidden = weights.head.weight.shape
        self._no_logits = torch.empty(0, self._vocab_size)
        self._embeddings = weights.embeddings.tokens.detach().contiguous()
        learnt = weights.embeddings.positions
        self._learnt = None if learnt is None else learnt.detach()[weights.embeddings.offset :].contiguous()
        self._max_positions = max_positions if self._learnt is None else min(max_positions, len(self._learnt))
        self._angles = None if weights.rotary is None else RotaryAngles(weights.rotary, max_positions)
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._vectors: list[Tensor] = []
        """Norms, biases and the rounded head. They are kept here because C reads them."""
        sizes = [self._padded_size(linear.weight) for linear in weights.linears()]
        self._shortlists = Shortlists()
        self._panels = large_zeros(sum(sizes), dtype=self._dtype)
        """The weights of all linear layers, one after the other. C reads them."""
        self._layers_done = ctypes.c_int64()
        self._packed = 0
        """How many elements of `_panels` are in use."""
        inner = weights.layers[0].up.weight.shape[0]
        self._layers = (LayerStructure * len(weights.layers))()
        for packed, layer in zip(self._layers, weights.layers, strict=True):
            packed.attention_norm = self._norm(layer.attention_norm)
            packed.query_norm, packed.key_norm = self._norm(layer.query_norm), self._norm(layer.key_norm)
            packed.mlp_norm = self._norm(layer.mlp_norm)
            for index, projection in enumerate(layer.projections):
                packed.projections[index] = self._linear(projection)
            packed.attention_output = self._linear(layer.attention_output)
            packed.gate, packed.up = self._linear(layer.gate), self._linear(layer.up)
            packed.down = self._linear(layer.down)
        self._model = ModelStructure(
            layers=len(weights.layers),
            hidden=hidden,
            heads=weights.heads,
            kv_heads=weights.kv_heads,
            head_dim=weights.head_dim,
            inner=inner,
            type=WEIGHT_TYPES[self._dtype],
            is_rms=weights.is_rms,
            activation=ACTIVATIONS[weights.activation],
            epsilon=weights.epsilon,
            scale=weights.head_dim**-0.5,
            embeddings=self._embeddings.data_ptr(),
            positions=None if self._learnt is None else self._learnt.data_ptr(),
            final_norm=self._norm(weights.final_norm),
            rounded_head=self._rounded(weights.head),
            head=self._linear(weights.head, is_shared=weights.is_tied),
        )

    def __call__(
        self,
        token_ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        asked: Sequence[int],
        wanted: Sequence[int],
        cache: RowStates,
        draws: Sequence[Draw | None] | None = None,
    ) -> tuple[list[int], Tensor]:
        """Runs tokens. Those of one row stand together and in order.

        Returns the next token after each asked one, or -1 where its highest logit is not finite; and float32
        logits [wanted, vocab]. The next token is drawn or, where its draw is None, the argmax; ties go to the
        lowest id.

        rows, positions: each token's place in the cache. asked: indices of the tokens whose next token is
            asked for. wanted: indices, into `asked`, of those whose logits are wanted, in order.
        cache: it needs room for the tokens, which are written there.
        draws: one for each asked token; by default None for all.

        Raises IndexError where there is no such token or position.
        """
        self._check(token_ids, positions)
        # This runs for every step, and making a tensor takes ten times as long as making an array.
        ids, places, lines, ends = (array("i", numbers) for numbers in (token_ids, positions, rows, asked))
        logit_rows = array("i", [-1]) * len(asked)
        for line, index in enumerate(wanted):
            logit_rows[index] = line
        noises = (NoiseStructure * len(asked))()
        for index, draw in enumerate(draws or ()):
            if draw is not None:
                noises[index] = NoiseStructure.of(draw)
        best = array("q", [-1]) * len(asked)
        logits = torch.empty(len(wanted), self._vocab_size) if wanted else self._no_logits
        threads = torch.get_num_threads()
        plain = len(asked) - len(wanted)
        has_rounded = self._model.rounded_head.whole.outputs > 0
        may_shortlist = has_rounded and self._shortlists.may_be_made(plain, len(wanted))
        answered = ctypes.c_int64()
        cosines, sines = self._angles.up_to(max(positions)) if self._angles else (None, None)
        batch = BatchStructure(
            tokens=len(token_ids),
            asked_tokens=len(asked),
            threads=threads,
            may_shortlist=may_shortlist,
            cache=ctypes.addressof(cache.pointers),
            token_ids=_address(ids),
            rows=_address(lines),
            positions=_address(places),
            asked=_address(ends),
            logit_rows=_address(logit_rows),
            noises=ctypes.addressof(noises),
            cosines=cosines,
            sines=sines,
            logits=logits.data_ptr(),
            best=_address(best),
            answered=ctypes.addressof(answered),
            layers_done=ctypes.addressof(self._layers_done),
            scratch=self._scratch_for(len(token_ids), len(asked), threads),
        )
        self._library.decode(ctypes.byref(self._model), self._layers, ctypes.byref(batch))
        if may_shortlist:
            self._shortlists.saw(answered.value, plain - answered.value)
        return best.tolist(), logits

    def _check(self, token_ids: Sequence[int], positions: Sequence[int]) -> None:
        """C does not look whether it reads outside of a table."""
        if not 0 <= min(token_ids) <= max(token_ids) < self._embeddings.shape[0]:
            raise IndexError(f"a token id lies outside of the vocabulary of {self._embeddings.shape[0]}")
        if not 0 <= min(positions) <= max(positions) < self._max_positions:
            raise IndexError(f"a position lies outside of the model's {self._max_positions}")

    @property
    def layers_done(self) -> int:
        """How many layers have run so far, in all passes. For any thread, also in the middle of a pass."""
        return self._layers_done.value

    def _scratch_for(self, *sizes: int) -> int:
        """Returns the address of memory for a call.

        It is kept, because the system would fill new memory with zeros each time.

        sizes: the numbers of tokens, asked tokens and threads.
        """
        needed: int = self._library.scratch_bytes(ctypes.byref(self._model), *sizes)
        if self._scratch.nbytes < needed:
            self._scratch = large_zeros(needed, dtype=torch.uint8)
        return self._scratch.data_ptr()

    def _padded_size(self, weight: Tensor) -> int:
        """Returns how many weights the layer's panels hold, padding included."""
        outputs, inputs = weight.shape
        return -(-outputs // self._library.panel_outputs) * self._library.panel_outputs * inputs

    def _norm(self, norm: Norm | None) -> NormStructure:
        if norm is None:
            return NormStructure()
        return NormStructure(self._float32(norm.weight), self._float32(norm.bias))

    def _linear(self, linear: Linear | None, *, is_shared: bool = False) -> LinearStructure:
        if linear is None:
            return LinearStructure()
        panel = self._library.panel_outputs
        outputs, inputs = linear.weight.shape
        scales = None
        if self._dtype == torch.int8:
            whole, scales = quantized(linear.weight)
            panels = in_panels(whole, panel, neighbours=2)
        else:
            panels = in_panels(linear.weight, panel)
        room = self._panels[self._packed : self._packed + panels.numel()]
        room.view(panels.shape).copy_(panels)
        self._packed += panels.numel()
        if not is_shared:
            linear.release()
        addresses = (self._float32(values, pad_to=panel) for values in (linear.bias, scales))
        return LinearStructure(outputs, inputs, room.data_ptr(), *addresses)

    def _rounded(self, head: Linear) -> RoundedWeightsStructure:
        """Returns the head rounded to 8 bits; an empty structure where there are no shortlists.

        A head that has 8 bits anyway would gain too little by them.
        """
        neighbours = self._library.shortlist_neighbours
        if head.bias is not None or self._dtype == torch.int8 or not neighbours:
            return RoundedWeightsStructure()
        rounded = rounded_weights(head.weight, self._library.panel_outputs, neighbours)
        tensors = (rounded.panels, rounded.scales, rounded.offsets, rounded.lengths, rounded.errors)
        self._vectors.extend(tensors)
        panels, scales, *others = (tensor.data_ptr() for tensor in tensors)
        return RoundedWeightsStructure(LinearStructure(*head.weight.shape, panels, None, scales), *others)

    def _float32(self, values: Tensor | None, pad_to: int = 1) -> int | None:
        if values is None:
            return None
        padded = torch.nn.functional.pad(values.detach().float(), (0, -values.shape[0] % pad_to))
        self._vectors.append(padded.clone())
        return self._vectors[-1].data_ptr()


def _address(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


@torch.inference_mode()
def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a weight [out, in] as int8, and the float32 scales [out] that its outputs are multiplied by."""
    weight = weight.float()
    scales = (weight.abs().amax(dim=1) / HIGHEST_INT8).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round().to(torch.int8), scales


def decodable_weights(model: Any) -> Weights | None:
    """Returns the weights of transformers' model for `Decoder`; None where it cannot run the model."""
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        return None
    weights = read_weights(model)
    return weights if weights is not None and _fits(weights) else None


def _fits(weights: Weights) -> bool:
    """Whether decoder.c takes all sizes and types."""
    layer, dtype, embeddings = weights.layers[0], weights.head.weight.dtype, weights.embeddings
    widths = [weights.head.weight.shape[1], layer.up.weight.shape[0], layer.attention_output.weight.shape[1]]
    return (
        weights.activation in ACTIVATIONS
        and AttentionKernel.takes(dtype, weights.heads, weights.kv_heads, weights.head_dim)
        and weights.heads % weights.kv_heads == 0
        and all(width % WIDE == 0 for width in widths)
        and all(linear.weight.dtype == dtype for linear in (layer.up, *layer.projections))
        and all(table is None or table.dtype == dtype for table in (embeddings.tokens, embeddings.positions))
    )
