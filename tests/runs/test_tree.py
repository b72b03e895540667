"""Trees of tensors and plain values: what goes into a file comes out of it, to the last bit."""

from __future__ import annotations

import copy
import json
import math
import struct
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from torch import nn
from toys import same_bits

from genkit.errors import PluginError
from genkit.runs import tree as trees
from genkit.runs.tree import pack, unpack

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
]


def again(value: Any) -> Any:
    """A value through a file's bytes."""
    return unpack(pack({"value": value}))["value"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 0, 3), (2, 3, 4, 5)], ids=str)
def test_tensors_of_each_dtype_and_shape_keep_their_bits(dtype: torch.dtype, shape: Any) -> None:
    size = torch.empty((), dtype=dtype).itemsize
    count = math.prod(shape)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (count * size,), generator=generator, dtype=torch.uint8)
    tensor = (raw % 2 if dtype == torch.bool else raw).view(dtype).view(shape)  # also NaN
    found = again(tensor)
    assert found.dtype == dtype and found.shape == tensor.shape
    assert torch.equal(found.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


STRIDED = {
    "channels last": torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last),
    "channels last, one pixel": torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
    "channels last, one channel": torch.randn(4, 1, 3, 3).to(memory_format=torch.channels_last),
    "channels last in 3d": torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    "transposed": torch.randn(4, 7).t(),
    "permuted": torch.randn(4, 1, 7, 2).permute(3, 1, 0, 2),
}


@pytest.mark.parametrize("kind", STRIDED)
def test_the_order_in_memory_survives(kind: str) -> None:
    """Fused optimizers and the bits of sums depend on it."""
    tensor = STRIDED[kind]
    found = again(tensor)
    assert torch.equal(found, tensor) and found.stride() == tensor.stride()
    assert found.untyped_storage().nbytes() == found.nbytes


VIEWS = {
    "a slice": torch.arange(12.0)[2:9],
    "every other": torch.arange(24.0).view(4, 6)[:, ::2],
    "expanded": torch.arange(3.0)[:, None].expand(3, 5),
    "overlapping": torch.arange(9.0).as_strided((4, 4), (1, 1)),
    "a diagonal": torch.arange(16.0).view(4, 4).diagonal(),
    "a conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    "an imaginary part": torch.randn(3, dtype=torch.complex64).conj().imag,
    "a parameter": nn.Parameter(torch.randn(3)),
    "a row of channels last": STRIDED["channels last"][1:3, :2],
}


@pytest.mark.parametrize("kind", VIEWS)
def test_views_keep_their_values_and_nothing_else_of_what_they_view(kind: str) -> None:
    tensor = VIEWS[kind].detach()
    found = again(VIEWS[kind])
    assert type(found) is torch.Tensor and torch.equal(found, tensor)
    assert found.untyped_storage().nbytes() == found.nbytes


def test_tensors_that_share_memory_are_written_each_by_itself() -> None:
    whole = torch.arange(10.0)
    shared = {"whole": whole, "same": whole, "part": whole[3:5], "matrix": whole.view(2, 5).t()}
    assert same_bits(unpack(pack(shared)), shared)


def test_values_of_all_kinds_come_back_as_they_were() -> None:
    values = [
        *(None, True, False, 0, -1, 2**53 + 1, -(10**300), 10**3000),
        *(0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 1e22),
        *("", "é\n\x00\ud800", '{"tensor":"value"}', "tensor"),
        *((), (1, (2.0, [])), [], [[]], set(), {1, "a"}, {}, {"tensor": "x"}, {"dict": []}),
        *({0: "a", "0": "b", None: "c", (1, 2): "d", 1.5: "e", math.inf: "f"},),
        *(torch.Size([2, 3]), torch.bfloat16, torch.device("cuda", 1), 1j, complex(-0.0, math.inf)),
        *(OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ]
    for value, found in zip(values, again(values), strict=True):
        assert type(found) is type(value) and found == value and repr(found) == repr(value)
    assert math.isnan(again(math.nan))


KEYS = st.one_of(st.text(max_size=4), st.integers(), st.none(), st.tuples(st.integers()))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False))
TREES = st.recursive(
    LEAVES,
    lambda each: st.one_of(
        st.lists(each, max_size=4),
        st.lists(each, max_size=4).map(tuple),
        st.dictionaries(KEYS, each, max_size=4),
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_any_tree_of_plain_values_comes_back(tree: Any) -> None:
    assert repr(unpack(pack(tree))) == repr(tree)


def test_paths_that_are_alike_do_not_mix_tensors_up() -> None:
    tree = {
        "a": {"b.c": torch.tensor(1.0), "b": {"c": torch.tensor(2.0)}},
        "a.b": {"c": torch.tensor(3.0)},
        "__metadata__": torch.tensor(4.0),
        "": torch.tensor(5.0),
        "\ud800\x1b": [torch.tensor(6.0)],
        1: torch.tensor(7.0),
        "1": torch.tensor(8.0),
    }
    assert same_bits(unpack(pack(tree)), tree)


def test_tensors_lie_under_their_paths_in_their_own_shape() -> None:
    tree = {"model": {"layer.weight": torch.randn(2, 3)}, "steps": [torch.tensor(4)]}
    found = load(pack(tree))
    assert same_bits(
        found, {"model.layer.weight": tree["model"]["layer.weight"], "steps.0": tree["steps"][0]}
    )


def test_the_versions_of_a_modules_parts_survive() -> None:
    """Some modules refuse or change a state_dict that has none."""
    state = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).state_dict()
    found = again(state)
    assert same_bits(found, state) and list(found) == list(state)
    assert found._metadata == state._metadata  # type: ignore[attr-defined]
    assert found._metadata["0"]["version"] == 2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 0.01, fused=True),
        lambda p: torch.optim.AdamW(p, torch.tensor(0.01), foreach=False, amsgrad=True),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adafactor(p, 0.01),
        lambda p: torch.optim.Rprop(p, 0.01),
    ],
)
def test_an_optimizer_continues_to_the_same_bits(make: Any, memory_format: Any) -> None:
    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()

    images = torch.randn(2, 3, 8, 8).to(memory_format=memory_format)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 3)).to(memory_format=memory_format)
    optimizer = make(module.parameters())
    for _ in range(3):
        step(module, optimizer)
    twin = copy.deepcopy(module)
    other = make(twin.parameters())
    other.load_state_dict(again(optimizer.state_dict()))
    for own, copied in zip(optimizer.state.values(), other.state.values(), strict=True):
        for name, value in own.items():
            if isinstance(value, torch.Tensor):
                assert copied[name].stride() == value.stride(), name
    for _ in range(3):
        step(module, optimizer)
        step(twin, other)
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    assert same_bits(twin.state_dict(), module.state_dict())
    assert same_bits(other.state_dict(), optimizer.state_dict())


def test_equal_trees_make_equal_bytes() -> None:
    tree = {"b": torch.ones(3), "a": {"x": 1, "y": torch.zeros(2).half()}}
    assert pack(tree) == pack(copy.deepcopy(tree))


def test_a_state_whose_header_could_not_be_read_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trees, "MOST_HEADER_BYTES", 200)
    with pytest.raises(PluginError, match=r"its 0 tensors .* need a header of"):
        pack({"text": "x" * 300})


def test_what_pack_writes_any_reader_of_safetensors_reads() -> None:
    content = pack({"a": torch.ones(2), "n": 3})
    size = struct.unpack("<Q", content[:8])[0]
    tree = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["tree"])
    assert tree == {"dict": [["a", {"tensor": "a"}], ["n", 3]]}
