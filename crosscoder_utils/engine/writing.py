"""Writing the rows of one batch: prompts read in parallel, then token by token, all rows at once.

Two streams: a clean one, which tells how much the features fire, and an edited one, which writes the text. Both read the
same tokens, the prompt and what the edited one has written, and keep their own keys and values.

Column c of every table belongs to the row's token at position c, BOS included. Per-row tables are indexed by row; the
streams' caches by slot. Rows that have ended leave their slots, and `rows` says which row is in which slot.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder_utils.engine.clean_texts import CleanTexts
from crosscoder_utils.engine.drafts import Drafter, Library
from crosscoder_utils.engine.plain import plain
from crosscoder_utils.engine.rows import NEVER, Limits, Row, first_column, ragged_columns
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.engine.targets import Targets
from crosscoder_utils.hooks import Pass, Stream
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.loading import Setup

MOST_AHEAD = 16
"""Most tokens that the edited stream writes before the clean one reads them."""


class Writer:
    """Rows on their way from prompt to completion, under no intervention or one along the decoder.

    A new token's edit depends on how much the feature fires there in the clean model. The edited stream runs ahead, taking
    it that the feature does not fire; the clean one then reads several tokens at once. Where it finds that the feature did
    fire, the row goes back to that token and on from there with the right edit.

    Attributes:
        tokens: The rows' tokens, as far as they are known.
        length: How many are.
        cursor: How many the edited stream has read.
        verified: How many the clean stream has read.
        over: Whether the text has ended.
        coefficients: Multiples of its directions that a row adds; where not verified, those of a feature that is silent.
        pre_before: Clean pre-activations.
        pre_after: Pre-activations of the edited stream.
        residual_norm: Norm of the clean stream.
    """

    def __init__(self, setup: Setup, rows: Sequence[Row], limits: Limits, sampler: Sampler, library: Library) -> None:
        self.setup, self.limits, self.sampler, self.source = setup, limits, sampler, rows
        self.model = plain(setup.model)
        bos = [setup.tokenizer.bos_token_id] if setup.preset.prepend_bos else []
        ids = [torch.tensor([*bos, *row.ids]) for row in rows]
        self.prompt_length = torch.tensor([len(i) for i in ids], device=setup.device)
        n_rows, n_columns = len(rows), max(map(len, ids)) + limits.new_tokens
        self.tokens = torch.zeros(n_rows, n_columns, dtype=torch.long)
        for row, own in enumerate(ids):
            self.tokens[row, : len(own)] = own
        self.tokens = self.tokens.to(setup.device)
        columns = torch.arange(n_columns, device=setup.device) - len(bos)
        start, stop = (torch.tensor(b, device=setup.device)[:, None] for b in zip(*(r.bounds for r in rows), strict=True))
        self.editable = (columns >= start) & (columns < stop) & (columns >= 0)

        self.length, self.cursor = self.prompt_length.clone(), torch.zeros_like(self.prompt_length)
        self.verified = self.prompt_length.clone()
        self.over = torch.zeros(n_rows, dtype=torch.bool, device=setup.device)
        self.rows = torch.arange(n_rows, device=setup.device)
        self.edited = Stream(self.model, n_rows, n_columns, setup.crosscoder.hook_points)
        self.drafter = Drafter(library.table([row.prompt for row in rows], setup.device))
        self.touched = rows[0].intervention is not None
        self.waits = False
        if self.touched:
            self._make_tables([row.intervention for row in rows])

    def _make_tables(self, interventions: Sequence[Intervention]) -> None:
        self.targets = self.slot_targets = Targets.of(interventions, self.setup.crosscoder)
        (n_rows, n_columns), n_targets = self.tokens.shape, self.targets.real.shape[1]
        shape = n_rows, n_columns, n_targets
        self.pre_before, self.pre_after = (self.targets.bias.new_zeros(shape) for _ in range(2))
        self.residual_norm = self.targets.bias.new_zeros(n_rows, n_columns, self.setup.n_points)
        self.silent = self._coefficients(self.targets, torch.zeros_like(self.pre_before), self.editable)
        self.coefficients = self.silent.clone()
        # A row's edits wait for the clean stream only if they depend on it.
        self.waits = any(i.reads_activation for i in interventions) and bool(self.targets.directions.any())
        self.firing_rate = 0.05

    @torch.no_grad()
    def write(self) -> Iterator[int]:
        """Complete the rows; yields how many have just ended."""
        self._read_clean_prompts()
        self._read_prompts()
        while len(self.rows):
            ahead = self._ahead()
            if not ahead:
                self._verify(self.cursor + 1)
            self._step()
            # A row that seems over waits for the clean stream too; many of them are a waste.
            while ahead > (self.cursor - self.verified)[self.rows].max() and self.over[self.rows].float().mean() < 1 / 8:
                self._step()
            if ahead:
                self._verify(self.cursor)
            yield self._retire()
        if self.touched and self.limits.record:
            self._read_clean_rest()

    # ---- prompts

    def _read_clean_prompts(self) -> None:
        """Read each different prompt once; rows with equal prompts stand together."""
        texts = list(dict.fromkeys(row.prompt for row in self.source))
        index = {text: i for i, text in enumerate(texts)}
        self.prompt_of = torch.tensor([index[row.prompt] for row in self.source], device=self.setup.device)
        first_row = torch.tensor([self.prompt_of.tolist().index(i) for i in range(len(texts))], device=self.setup.device)
        width = int(self.prompt_length.max())
        self.clean_prompts = Stream(self.model, len(texts), width, self.setup.crosscoder.hook_points)
        for part in self.limits.parts(len(texts), width):
            rows = first_row[part]
            columns = ragged_columns(torch.zeros_like(rows), self.prompt_length[rows])
            residuals = self.clean_prompts.read(part, self.tokens[rows[:, None], columns], columns).residuals
            if self.touched:
                for prompt, own in zip(range(part.start, part.stop), residuals, strict=True):
                    self._record_clean_prompt(torch.nonzero(self.prompt_of == prompt)[:, 0], own)

    def _record_clean_prompt(self, rows: Tensor, residuals: Float[Tensor, "pos point d_model"]) -> None:
        n, targets = int(self.prompt_length[rows[0]]), self.targets.select(rows)
        pre = targets.pre_activations(residuals[None, :n].expand(len(rows), -1, -1, -1))
        self.pre_before[rows, :n] = self.pre_after[rows, :n] = pre
        self.coefficients[rows, :n] = self._coefficients(targets, targets.activate(pre), self.editable[rows, :n])
        self.residual_norm[rows, :n] = residuals[:n].norm(dim=-1).to(self.residual_norm.dtype)

    def _read_prompts(self) -> None:
        """Bring the edited stream to each prompt's last token, which the first step reads."""
        last = self.prompt_length - 1
        first = last
        if self.touched:
            edited = (self.coefficients != 0) & self.targets.moves[:, None]
            first = torch.minimum(first_column(edited.any(-1)), last)
            if self.waits:
                self._begin_clean_texts()
        # Up to the first edit the two streams are one; what is copied beyond it is overwritten.
        self.edited.cache.copy_from(self.clean_prompts.cache, slice(None), self.prompt_of, int(first.max()))
        edited = torch.nonzero(first < last)[:, 0]
        for part in self.limits.parts(len(edited), int((last - first).max())):
            rows = edited[part]
            self._read_edited(rows, rows, ragged_columns(first[rows], last[rows]), self.targets.select(rows))
        self.cursor = last.clone()

    # ---- completions

    def _step(self) -> None:
        """Every row reads its next token, and guesses of those after it, and writes at least one.

        A row that is over reads its last token again.
        """
        rows = self.rows
        begin = torch.minimum(self.cursor, self.length - 1)[rows]
        room = (self.prompt_length[rows] + self.limits.new_tokens - 1 - begin).masked_fill(self.over[rows], 0)
        n_drafted = self.drafter.draft(rows, self.tokens, begin + 1, room)
        columns = ragged_columns(begin, begin + 1 + n_drafted)
        logits, n_read = self._next_logits(rows, columns)
        places = columns + 1 - self.prompt_length[rows][:, None]
        prompts = [self.source[r].prompt for r in rows.tolist()] if self.sampler.temperature else []
        written = self.sampler.next_tokens(logits, prompts, places)
        # A guess is right if it is what was written there, and so were those before it.
        right = (written[:, :-1] == self.tokens[rows[:, None], columns][:, 1:]).long().cumprod(1).sum(1)
        last = torch.minimum(torch.minimum(right, n_drafted), n_read - 1)[:, None]
        self.drafter.learn(n_drafted, last[:, 0])

        token, place = written.gather(1, last)[:, 0], places.gather(1, last)[:, 0]
        self.cursor[rows] = columns.gather(1, last)[:, 0] + 1
        over = (token == self.setup.tokenizer.eos_token_id) | (place >= self.limits.new_tokens)
        self.over[rows] = over
        # Up to here the text is known, also where it was only guessed before.
        self.length[rows] = self.cursor[rows] + (~over).long()
        going = rows[~over]
        self.tokens[going, self.cursor[going]] = token[~over]

    def _next_logits(
        self, rows: Tensor, columns: Int[Tensor, "row pos"]
    ) -> tuple[Float[Tensor, "row pos vocab"], Int[Tensor, " row"]]:
        """Read the tokens at `columns`; returns logits, and how many of them hold."""
        targets = self.slot_targets if self.touched else None
        logits = self._read_edited(slice(0, len(rows)), rows, columns, targets, logits=True).logits
        return logits, torch.full_like(rows, columns.shape[1])

    def _read_edited(
        self,
        slots: slice | Tensor,
        rows: Tensor,
        columns: Int[Tensor, "row pos"],
        targets: Targets | None,
        logits: bool = False,
    ) -> Pass:
        """Let the edited stream read `columns` of some rows, edited as the tables say."""
        at = rows[:, None], columns
        edit = None if targets is None else targets.edits(self.coefficients[at])
        result = self.edited.read(slots, self.tokens[at], columns, edit, logits)
        if targets is not None and self.limits.record:
            self.pre_after[at] = targets.pre_activations(result.residuals)
        return result

    def _ahead(self) -> int:
        """How many tokens to write before the clean stream reads; 0 if it is to read first.

        About a tenth of what is written ahead is lost if the window times the firing rate is a fifth.
        """
        if not self.waits:
            return 1
        ahead = min(MOST_AHEAD, int(0.2 / max(self.firing_rate, 1e-3)))
        return ahead if ahead > 1 else 0

    def _verify(self, upto: Int[Tensor, " row"]) -> None:
        """Let the clean stream catch up; a row that was written with a wrong edit goes back to it."""
        if not self.waits:
            return
        rows = self.rows
        upto = torch.minimum(upto, self.length)
        columns = ragged_columns(self.verified[rows], upto[rows])
        at = rows[:, None], columns
        found = self._read_clean(rows, self.slot_targets, columns)
        new = columns >= self.verified[rows][:, None]  # a row with nothing new has said its last column again
        fires = new & ((found != self.silent[at]) & self.slot_targets.moves[:, None]).any(-1)
        wrong = first_column(fires & (columns < self.cursor[rows][:, None]), columns)
        right = columns <= wrong[:, None]
        known = torch.where(right[..., None], found, self.silent[at])
        self.coefficients[at] = torch.where(new[..., None], known, self.coefficients[at])

        back = wrong < NEVER
        n_read = torch.where(back, wrong + 1, upto[rows])
        n_fired = (fires & right).sum()
        n_new = (n_read - self.verified[rows]).sum().clamp(min=1)
        self.firing_rate = 0.7 * self.firing_rate + 0.3 * float(n_fired / n_new)
        self.verified[rows] = n_read
        self.cursor[rows] = torch.where(back, wrong, self.cursor[rows])
        self.length[rows] = torch.where(back, wrong + 1, self.length[rows])
        self.over[rows] &= ~back

    def _read_clean(self, rows: Tensor, targets: Targets, columns: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos target"]:
        """Let the clean stream read `columns` of all rows still written; returns the coefficients that it finds."""
        texts, text_of = self.clean.part_ways(rows, self.tokens[rows[:, None], columns], columns)
        columns_of = torch.zeros(len(texts), columns.shape[1], dtype=torch.long, device=rows.device)
        columns_of[text_of] = columns
        found = torch.empty(*columns.shape, targets.real.shape[1], device=columns.device, dtype=targets.bias.dtype)
        for part in self.limits.parts(len(texts), columns.shape[1]):
            at = texts[part, None], columns_of[part]
            residuals = self.clean.stream.read(self.clean.slot[texts[part]], self.tokens[at], columns_of[part]).residuals
            own = torch.nonzero((text_of >= part.start) & (text_of < part.stop))[:, 0]
            found[own] = self._take_clean(rows[own], columns[own], targets.select(own), residuals, text_of[own] - part.start)
        return found

    def _take_clean(
        self, rows: Tensor, columns: Tensor, targets: Targets, residuals: Tensor, text_of: Tensor
    ) -> Float[Tensor, "row pos target"]:
        """Write into the tables what the clean stream of the rows' texts says; returns the coefficients."""
        at = rows[:, None], columns
        pre = targets.pre_activations(residuals[text_of])
        self.pre_before[at] = pre
        if self.limits.record:
            self.residual_norm[at] = residuals.norm(dim=-1).to(self.residual_norm.dtype)[text_of]
        return self._coefficients(targets, targets.activate(pre), self.editable[at])

    def _retire(self) -> int:
        """Take rows that are over out of their slots, once they are worth the copying; returns how many."""
        ended = self.over[self.rows]
        if self.waits:
            ended = ended & (self.verified >= self.length)[self.rows]
        n_left = int((~ended).sum())
        n_ended = len(self.rows) - n_left
        if n_left and n_ended < len(self.rows) / 16:
            return 0
        order = torch.arange(n_left, device=ended.device)
        holes = torch.nonzero(ended[:n_left])[:, 0]
        movers = torch.nonzero(~ended[n_left:])[:, 0] + n_left
        order[holes] = movers
        self.edited.cache.move(movers, holes)
        self.rows = self.rows[order]
        if self.touched:
            self.slot_targets = self.targets.select(self.rows)
        return n_ended

    def _read_clean_rest(self) -> None:
        """What the clean stream makes of the completions, where no edit had to know it before."""
        if self.waits:
            return
        self._begin_clean_texts()
        rows = torch.arange(len(self.source), device=self.setup.device)
        # The prompt's last token is read again, so that a row without completion has something to read.
        self._read_clean(rows, self.targets, ragged_columns(self.prompt_length - 1, self.length))

    def _begin_clean_texts(self) -> None:
        self.clean = CleanTexts(self.model, self.clean_prompts, self.prompt_of, self.tokens.shape)

    # ---- helpers

    def _coefficients(self, targets: Targets, activations: Tensor, editable: Tensor) -> Tensor:
        return targets.coefficients(activations) * editable[..., None]
