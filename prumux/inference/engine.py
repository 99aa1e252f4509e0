"""`compile_for_inference`: a finished classifier as a function that runs near the hardware's limit."""

from __future__ import annotations

import logging
import time
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from prumux.errors import UserError
from prumux.inference.check import CHECKED_LENGTH, logit_difference
from prumux.inference.forward import FastForward
from prumux.inference.hardware import INT8, int8_activations, resolve_device, resolve_dtype
from prumux.inference.texts import Text, text_batches
from prumux.models.heads import PrumuxClassifier

logger = logging.getLogger(__name__)

TOKENS_PER_CHUNK = {"cpu": 1024, "cuda": 1 << 17}  # of the mixture; on a CPU what its caches hold


def compile_for_inference(
    model: PrumuxClassifier,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    *,
    tokenizer: Any = None,
    chunk_groups: int | None = None,
    buckets: Sequence[int] | None = None,
    compile: bool = True,
    progress: bool = True,
) -> InferenceEngine:
    """Build the fast forward of a classifier, compile it and check it against the model.

    Args:
        model: dense, pruned, multiplexed or not; it is copied and left as it is.
        dtype: float32, bfloat16, (GPU) float16, or int8: the encoder's linear layers in int8, the rest in bfloat16
            (float32 where the processor emulates that).
        device: the best one there is unless named.
        tokenizer: for ``predict``, or its folder; taken from the model's folder unless given.
        chunk_groups: groups (rows / N) in one pass; a call's rows are worked off in such chunks. Chosen by the device
            unless given.
        buckets: lengths that rows are padded to; each, with each power of two of groups up to a chunk, is compiled for
            itself while the engine is built. Longer rows are compiled when they are met. Without, one code serves all
            sizes, which on a CPU is as fast.
        compile: ``False`` runs the same operations without the compiler.
        progress: show the warm-up.

    Raises:
        UserError: a dtype or device that this machine lacks, or logits that differ from the model's by more than the
            dtype explains.
    """
    if not isinstance(model, PrumuxClassifier):
        raise UserError(
            f"{type(model).__name__} has no fast forward: load a PruMUX classifier, or convert a BERT (prumux convert)"
        )
    device = resolve_device(device)
    int8 = dtype in (INT8, torch.int8)
    if int8 and device.type != "cpu":
        raise UserError("int8 is for CPUs: use bfloat16 or float16 on this device")
    if chunk_groups is not None and chunk_groups < 1:
        raise UserError(f"chunk_groups {chunk_groups} is too small: give at least 1")
    if buckets is not None and not (
        isinstance(buckets, Sequence) and buckets and all(isinstance(b, int) and b >= 1 for b in buckets)
    ):
        raise UserError(f"buckets is {buckets!r}, expected a list of lengths from 1 on")
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise UserError("the model's weights are not all finite: they are damaged, train or load it again")
    return InferenceEngine(
        model,
        int8_activations() if int8 else resolve_dtype(dtype, device),
        device,
        int8=int8,
        tokenizer=tokenizer,
        chunk_groups=chunk_groups,
        buckets=buckets,
        compile=compile,
        progress=progress,
    )


class InferenceEngine:
    """Callable: ``engine(input_ids, attention_mask) -> logits``. Made by :func:`compile_for_inference`."""

    def __init__(
        self,
        model: PrumuxClassifier,
        dtype: torch.dtype,
        device: torch.device,
        *,
        int8: bool,
        tokenizer: Any,
        chunk_groups: int | None,
        buckets: Sequence[int] | None,
        compile: bool,
        progress: bool,
    ) -> None:
        self.dtype, self.int8, self.device = dtype, int8, device
        self.num_instances = model.config.num_instances
        self._tokenizer, self._name = tokenizer, model.name_or_path
        self._chunk_groups = chunk_groups
        self.forward = FastForward(model, dtype, int8).to(device).eval()
        self.config = self.forward.config  # a copy of the model's
        self.buckets = None if buckets is None else sorted(buckets)
        self._run: Callable[..., Tensor] = self.forward
        self.compiled = compile
        with torch.inference_mode():
            if compile:
                self._compile(progress)
            self.max_logit_diff = logit_difference(
                self, model, dtype=dtype, int8=int8, max_length=self.forward.max_length
            )

    # ---- building

    def _compile(self, progress: bool) -> None:
        """Compile, and run once so that the first call is as fast as the others."""
        # Frozen weights are laid out once for the matrix products; none of this outlives the engine's copy.
        options: dict[str, Any] = {"freezing": True}
        self._run = torch.compile(
            _with_own_code(self.forward), fullgraph=True, dynamic=self.buckets is None, options=options
        )
        start = time.perf_counter()
        self._progress = progress
        self._warm_up()
        logger.info("fast forward ready after %.0f s", time.perf_counter() - start)

    def _warm_up(self, types: bool = False) -> None:
        """Compile for rows without token types, or (when the first pair of sentences comes) for those with."""
        self._knows_types = types
        with (
            warnings.catch_warnings(),
            tqdm(
                self._sizes(), desc="compiling", disable=None if self._progress else True, leave=False
            ) as sizes,
        ):
            warnings.simplefilter("ignore")  # the compiler's remarks on itself
            for length, groups in sizes:
                sizes.set_postfix_str(f"{length} tokens, {groups} groups")
                ids = torch.zeros(groups, self.num_instances, length, dtype=torch.long, device=self.device)
                self._call(ids, torch.ones_like(ids, dtype=torch.bool), ids if types else None)
                if not self.compiled:  # `_call` has said why
                    break

    def _sizes(self) -> list[tuple[int, int]]:
        """The sizes (length, groups) that are compiled at once: any two where sizes are free, else each bucket's."""
        if self.buckets is None:
            # sizes that are equal by chance would be taken for the same size, and others compiled anew
            length = CHECKED_LENGTH - (self.num_instances == CHECKED_LENGTH)
            return [(min(length, self.forward.max_length), 3 if self.num_instances != 3 else 5)]
        found = []
        for length in sorted({self._bucket(bucket) for bucket in self.buckets}):
            chunk = self._chunk(length)
            found += [(length, groups) for groups in (1 << i for i in range(1, 64)) if groups < 2 * chunk]
        return found

    def _without_compiler(self, error: Exception) -> None:
        logger.warning(
            "no compiler for the fast forward (%s): running it without, slower", _cause(error)[:200]
        )
        self._run, self.compiled = self.forward, False

    # ---- running

    @torch.inference_mode()
    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The float32 logits of ``input_ids`` [rows, L], N consecutive rows forming a group.

        Rows that are missing in the last group are filled with copies of its own rows.

        Args:
            attention_mask: ``[rows, L]``, 1 at tokens; ``None`` for all.
            token_type_ids: ``[rows, L]``; ``None`` for type 0.

        Returns:
            ``[rows, C]``, or ``[rows, L, C]`` of a token classifier, on the engine's device.

        Raises:
            UserError: anything but such tensors, or rows longer than the model's positions.
        """
        if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.is_floating_point():
            raise UserError(
                "input_ids must be a tensor of whole numbers [rows, tokens]: engine(**tokenizer(texts, padding=True, "
                "return_tensors='pt'))"
            )
        rows, length = input_ids.shape
        if min(rows, length) == 0:
            raise UserError(
                f"input_ids of shape {tuple(input_ids.shape)} hold no rows: give at least one token"
            )
        for name, value in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
            if value is not None and value.shape != input_ids.shape:
                raise UserError(
                    f"{name} has shape {tuple(value.shape)}, input_ids {tuple(input_ids.shape)}: make them equal"
                )
        if not _within(input_ids, self.config.vocab_size):
            raise UserError(
                f"input_ids outside the vocabulary of {self.config.vocab_size} tokens: take the model's tokenizer"
            )
        if token_type_ids is not None and not _within(token_type_ids, self.config.type_vocab_size):
            raise UserError(
                f"token_type_ids outside the {self.config.type_vocab_size} types of this model: take its tokenizer"
            )
        if not self.config.use_token_types or (
            token_type_ids is not None and _within(token_type_ids, 1, False)
        ):
            token_type_ids = (
                None  # a tokenizer gives type 0 to single sentences; the code without types is shorter
            )
        if length > self.forward.max_length:
            raise UserError(
                f"rows of {length} tokens are too long for this model ({self.forward.max_length}): truncate them"
            )
        ids = self._grouped(input_ids, self._pad_id)  # (groups, N, L')
        types = None if token_type_ids is None else self._grouped(token_type_ids, 0)
        if types is not None and self.compiled and not self._knows_types:
            self._warm_up(types=True)
        attended = self._attended(attention_mask, ids, rows, length)
        chunk = self._chunk(ids.shape[-1])
        outputs = []
        for start in range(0, len(ids), chunk):
            part = slice(start, start + chunk)
            outputs.append(self._pass(ids[part], attended, types, part))
        logits = torch.cat(outputs)[:rows]
        return logits[:, :length] if logits.dim() == 3 else logits

    @property
    def _pad_id(self) -> int:
        return self.config.pad_token_id or 0

    def _bucket(self, length: int) -> int:
        """The length that rows are padded to; a model that attends padding gets no more of it."""
        if self.config.attend_padding:
            return min(length, self.forward.max_length)
        length = max(length, 2)  # a size of 1 would be compiled anew
        return min(
            next((bucket for bucket in self.buckets or () if bucket >= length), length),
            self.forward.max_length,
        )

    def _chunk(self, length: int) -> int:
        if self._chunk_groups is not None:
            return self._chunk_groups
        tokens = TOKENS_PER_CHUNK[self.device.type]
        if self.device.type == "cpu":
            tokens *= max(1, torch.get_num_threads() // 2)
        return max(2, tokens // (length + self.forward.prefix_length))

    def _grouped(self, values: Tensor, pad: int) -> Tensor:
        """[rows, L] -> [groups, N, bucket], the last group filled with its own rows."""
        rows, length = values.shape
        missing = -rows % self.num_instances
        if missing:
            last = values[rows - (self.num_instances - missing) :]
            values = torch.cat([values, last.repeat(-(-missing // len(last)), 1)[:missing]])
        values = nn.functional.pad(values.to(self.device), (0, self._bucket(length) - length), value=pad)
        return values.unflatten(0, (-1, self.num_instances))

    def _attended(self, mask: Tensor | None, ids: Tensor, rows: int, length: int) -> Tensor:
        """bool [groups, N, L'], the tokens of each row."""
        if mask is None:
            mask = torch.ones(rows, length, dtype=torch.bool, device=self.device)
        mask = nn.functional.pad(mask, (0, 0, 0, -rows % self.num_instances))  # filled rows ask for nothing
        mask = nn.functional.pad(mask.to(self.device), (0, ids.shape[-1] - length))
        return mask.unflatten(0, (-1, self.num_instances)).bool()

    def _pass(self, ids: Tensor, attended: Tensor, types: Tensor | None, part: slice) -> Tensor:
        """One chunk through the compiled forward. A single group is doubled: a size of 1 would be compiled anew."""
        given = [ids, attended[part], None if types is None else types[part]]
        groups = len(ids)
        wanted = max(2, groups)
        if self.buckets is not None:
            wanted = 1 << (wanted - 1).bit_length()
        if groups < wanted:
            given = [
                None
                if value is None
                else torch.cat([value, value[-1:].expand(wanted - groups, *value.shape[1:])])
                for value in given
            ]
        output = self._call(*given)
        return output[: groups * self.num_instances].float()

    def _call(self, *given: Tensor | None) -> Tensor:
        if self.compiled:
            try:
                # buckets have code of their own, more than the compiler's limit for one function
                with torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1024):
                    return self._run(*given)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compiled anew for inputs of another kind, and failing
                output = self.forward(*given)  # where this fails as well, it is not the compiler
                self._without_compiler(error)
                return output
        return self.forward(*given)

    # ---- text

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None or isinstance(self._tokenizer, str):
            from prumux.models.tokenizers import load_tokenizer

            try:
                self._tokenizer = load_tokenizer(self._tokenizer or self._name or None)
            except UserError as error:
                raise UserError(
                    "no tokenizer to predict with: give compile_for_inference(model, tokenizer=...) a tokenizer or its "
                    f"folder, or save it in the model's ({error})"
                ) from error
        return self._tokenizer

    def predict(
        self,
        texts: Iterable[Text],
        batch_size: int = 128,
        *,
        length_bucketing: bool = True,
        max_seq_length: int = 128,
        progress: bool = True,
    ) -> np.ndarray:
        """Logits of texts, in their order.

        Args:
            texts: sentences, or pairs of sentences as tuples; a list, a generator or a column of a ``datasets`` table.
            batch_size: groups (rows / N) that are padded together.
            length_bucketing: put texts of similar length together, so that little is padded. Without, texts stay in
                their order and are padded to ``max_seq_length``, as in the paper's protocol and as a model needs it
                that attends padding.
            max_seq_length: longer texts are cut.

        Returns:
            float32 ``[texts, C]``.

        Raises:
            UserError: a token classifier, no texts, or no tokenizer.
        """
        if self.forward.all_tokens:
            raise UserError("predict is for sentence classifiers: call the engine with token ids")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected a whole number of groups from 1 on")
        if max_seq_length < 4:
            raise UserError(f"max_seq_length {max_seq_length} is too small: give at least 4 tokens")
        if isinstance(texts, str | Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
            raise UserError(
                f"predict takes the texts themselves, not a {type(texts).__name__}: give a list or one column"
            )
        batches = text_batches(
            texts,
            self.tokenizer,
            rows=batch_size * self.num_instances,
            max_length=min(max_seq_length, self.forward.max_length),
            length_bucketing=length_bucketing and not self.config.attend_padding,
            pad_token_id=self._pad_id,
        )
        order: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        total = len(texts) if hasattr(texts, "__len__") else None  # type: ignore[arg-type]
        with tqdm(
            total=total, desc="predict", unit="text", disable=None if progress else True, leave=False
        ) as bar:
            for positions, batch in batches:
                order.append(positions)
                logits.append(self(**batch).cpu().numpy())
                bar.update(len(positions))
        if not order:
            raise UserError("no texts to predict: give at least one")
        found = np.concatenate(logits)
        found[np.concatenate(order)] = np.concatenate(logits)
        return found


def _with_own_code(module: FastForward) -> FastForward:
    """``module`` with a copy of its forward: the compiler counts, and limits, what it compiles per piece of code."""
    forward = FastForward.forward
    code = forward.__code__.replace(co_name=f"forward_{id(module)}")
    copied = types.FunctionType(
        code, forward.__globals__, "forward", forward.__defaults__, forward.__closure__
    )
    module.__class__ = type("FastForward", (FastForward,), {"forward": copied})
    return module


def _within(ids: Tensor, size: int, unknown: bool = True) -> bool:
    """Are all numbers from 0 to below ``size``; ``unknown`` on a GPU, which would have to be waited for."""
    return unknown if ids.device.type != "cpu" else 0 <= int(ids.min()) <= int(ids.max()) < size


def _cause(error: Exception) -> str:
    """The first line that says something; the compiler's own begins with the name of its backend."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith("raised:")), type(error).__name__)
