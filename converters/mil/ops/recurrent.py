"""Recurrent layers: `rnn`, `gru`, `lstm`.

Sequences are (time, batch, features). A layer that runs in `reverse` gives its steps in the order it took them,
the last input first; the reverse half of a `bidirectional` one gives them in the order of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

Activation = Callable[[torch.Tensor], torch.Tensor]
MaybeTensor = torch.Tensor | None

HARD_SIGMOID_SLOPE, HARD_SIGMOID_OFFSET = 0.2, 0.5
"""Core ML's defaults (NeuralNetwork.proto, ActivationSigmoidHard), which is what a recurrent layer uses."""

_ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,  # with its factors at 1, recurrent layers have no parameter for them
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: torch.clamp(HARD_SIGMOID_SLOPE * x + HARD_SIGMOID_OFFSET, 0.0, 1.0),
    "sigmoid_hard": lambda x: torch.clamp(HARD_SIGMOID_SLOPE * x + HARD_SIGMOID_OFFSET, 0.0, 1.0),
    "relu": torch.relu,
    "linear": lambda x: x,
}


def _activation(site: Site, parameter: str, default: str) -> Activation:
    return _ACTIVATIONS[site.text(parameter, default, among=tuple(_ACTIVATIONS))]


def _add(x: torch.Tensor, bias: MaybeTensor) -> torch.Tensor:
    return x if bias is None else x + bias


def _sequence(steps: list[torch.Tensor], every: bool) -> torch.Tensor:
    return torch.stack(steps) if every else steps[-1].unsqueeze(0)


@op("rnn")
def rnn(site: Site) -> Bound:
    """`h = activation(W_ih x + W_hh h + bias)`; gives the steps (or the last) and the last."""
    activation = _activation(site, "activation", "tanh")
    every = site.flag("output_sequence", default=False)
    backward = site.text("direction", "forward", among=("forward", "reverse")) == "reverse"

    def kernel(
        x: torch.Tensor, h: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, bias: MaybeTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        steps = []
        for part in _add(torch.flip(x, (0,)) @ w_ih.T if backward else x @ w_ih.T, bias):
            h = activation(part + h @ w_hh.T)
            steps.append(h)
        return _sequence(steps, every), h

    return site.bind(kernel, "x", "initial_h", "weight_ih", "weight_hh", "bias")


@op("gru")
def gru(site: Site) -> Bound:
    """Gated recurrent unit; weights hold the reset, output and update gate, in this order.

    `h = (1 - z) o + z h`. The reset gate applies to `h` before its product with the output gate's weight or,
    with `reset_after` (iOS 18, torch's form), to that product and the bias. `input_bias` is added on the input's side.
    """
    activation = _activation(site, "activation", "tanh")
    inner = _activation(site, "recurrent_activation", "sigmoid")
    every = site.flag("output_sequence", default=False)
    backward = site.text("direction", "forward", among=("forward", "reverse")) == "reverse"
    after = site.flag("reset_after", default=False)

    def kernel(
        x: torch.Tensor, h: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, bias: MaybeTensor, b_ih: MaybeTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        w_reset, w_output, w_update = w_hh.T.chunk(3, dim=1)
        b_hh = x.new_zeros(w_hh.shape[0]) if bias is None else bias
        b_reset, b_output, b_update = b_hh.chunk(3)
        steps = []
        for part in _add((torch.flip(x, (0,)) if backward else x) @ w_ih.T, b_ih):
            x_reset, x_output, x_update = part.chunk(3, dim=-1)
            r = inner(x_reset + h @ w_reset + b_reset)
            z = inner(x_update + h @ w_update + b_update)
            recalled = r * (h @ w_output + b_output) if after else (r * h) @ w_output + b_output
            h = (1 - z) * activation(x_output + recalled) + z * h
            steps.append(h)
        return _sequence(steps, every), h

    return site.bind(kernel, "x", "initial_h", "weight_ih", "weight_hh", "bias", "input_bias")


class _Cell(NamedTuple):
    """The parameters of one direction of an LSTM; gates are in the order input, forget, output, cell."""

    w_ih: torch.Tensor
    w_hh: torch.Tensor
    bias: MaybeTensor
    peephole: MaybeTensor


class _Rules(NamedTuple):
    """What is known of an LSTM before it runs."""

    gate: Activation
    cell: Activation
    output: Activation
    limit: float | None


def _lstm(
    x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, cell: _Cell, rules: _Rules
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """The steps of one direction, and the last hidden and cell state."""
    peep_i, peep_f, peep_o = (0.0, 0.0, 0.0) if cell.peephole is None else cell.peephole.chunk(3)
    steps = []
    for part in _add(x @ cell.w_ih.T, cell.bias):
        x_i, x_f, x_o, x_z = (part + h @ cell.w_hh.T).chunk(4, dim=-1)
        i, f, z = rules.gate(x_i + c * peep_i), rules.gate(x_f + c * peep_f), rules.cell(x_z)
        c = f * c + i * z
        if rules.limit is not None:
            c = torch.clamp(c, -rules.limit, rules.limit)
        h = rules.gate(x_o + c * peep_o) * rules.output(c)
        steps.append(h)
    return steps, h, c


def _of_batch(state: torch.Tensor, batch: int) -> torch.Tensor:
    """An initial state for `batch` sequences.

    For packed sequences coremltools writes the number of steps where the batch should be; Core ML accepts that, and
    as long as the state is all zeros it means the same.
    """
    return state[:batch] if len(state) > batch and not bool(state.any()) else state


@op("lstm")
def lstm(site: Site) -> Bound:
    """Long short-term memory, with peepholes and a limit on the cell state where they are given."""
    rules = _Rules(
        _activation(site, "recurrent_activation", "sigmoid"),
        _activation(site, "cell_activation", "tanh"),
        _activation(site, "activation", "tanh"),
        site.number("clip") if site.has("clip") else None,
    )
    every = site.flag("output_sequence", default=False)
    direction = site.text("direction", "forward", among=("forward", "reverse", "bidirectional"))

    def one_way(
        x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, *parameters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        source = torch.flip(x, (0,)) if direction == "reverse" else x
        h, c = _of_batch(h, x.shape[1]), _of_batch(c, x.shape[1])
        steps, h, c = _lstm(source, h, c, _Cell(*parameters), rules)
        return _sequence(steps, every), h, c

    def both_ways(
        x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, *parameters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        h, c = _of_batch(h, x.shape[1]), _of_batch(c, x.shape[1])
        (h_there, h_back), (c_there, c_back) = h.chunk(2, dim=-1), c.chunk(2, dim=-1)
        there, h_there, c_there = _lstm(x, h_there, c_there, _Cell(*parameters[:4]), rules)
        back, h_back, c_back = _lstm(torch.flip(x, (0,)), h_back, c_back, _Cell(*parameters[4:]), rules)
        h, c = torch.cat([h_there, h_back], -1), torch.cat([c_there, c_back], -1)
        if not every:
            return h.unsqueeze(0), h, c
        return torch.cat([torch.stack(there), torch.stack(back[::-1])], -1), h, c

    forward = ("weight_ih", "weight_hh", "bias", "peephole")
    reverse = ("weight_ih_back", "weight_hh_back", "bias_back", "peephole_back")
    if direction == "bidirectional":
        return site.bind(both_ways, "x", "initial_h", "initial_c", *forward, *reverse)
    for name in reverse:
        site.has(name)  # allowed, and without effect
    return site.bind(one_way, "x", "initial_h", "initial_c", *forward)
