import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_ipadapter.encode.combine import COMBINE_MODES, combine
from lib_ipadapter.errors import MismatchError, UnitError

A = torch.tensor([[3.0, 1.0, 0.0, -2.0]])
B = torch.tensor([[4.0, -1.0, 0.0, 6.0]])
C = torch.tensor([[-4.0, 3.0, 0.0, 2.0]])

GOLDEN = {
    # A and B, weights 1
    ("average", (1.0, 1.0)): [3.5, 0.0, 0.0, 2.0],
    ("add", (1.0, 1.0)): [7.0, 0.0, 0.0, 4.0],
    ("subtract", (1.0, 1.0)): [-1.0, 2.0, 0.0, -8.0],
    # channel norms 5, sqrt 2, 0, sqrt 40
    ("norm average", (1.0, 1.0)): [0.7, 0.0, 0.0, 2 / 40**0.5],
    ("max", (1.0, 1.0)): [4.0, 1.0, 0.0, 6.0],
    ("min", (1.0, 1.0)): [3.0, -1.0, 0.0, -2.0],
    # weighted
    ("average", (1.0, 3.0)): [15 / 4, -0.5, 0.0, 4.0],
    ("average", (1.0, -1.0)): [-0.5, 1.0, 0.0, -4.0],
    ("add", (2.0, 0.5)): [8.0, 1.5, 0.0, -1.0],
    ("subtract", (2.0, 0.5)): [4.0, 2.5, 0.0, -7.0],
    ("norm average", (4.0, 4.0)): [0.7, 0.0, 0.0, 2 / 40**0.5],
    ("max", (1.0, 0.5)): [3.0, 1.0, 0.0, 3.0],
    ("min", (1.0, 0.5)): [2.0, -0.5, 0.0, -2.0],
}


@pytest.mark.parametrize(("mode", "weights"), GOLDEN)
def test_golden(mode, weights):
    torch.testing.assert_close(combine([A, B], mode, weights), torch.tensor([GOLDEN[mode, weights]]))


def test_subtract_takes_away_the_mean_of_the_others():
    torch.testing.assert_close(combine([A, B, C], "subtract", [1, 1, 1]), A - (B + C) / 2)
    torch.testing.assert_close(combine([A, B, C], "subtract", [1, 2, 4]), A - (2 * B + 4 * C) / 2)


@pytest.mark.parametrize("mode", COMBINE_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_reference_of_weight_1_is_itself(mode, dtype):
    e = torch.randn(1, 5, 8).to(dtype)
    result = combine([e], mode, [1.0])
    assert result.dtype == dtype and torch.equal(result, e)


@pytest.mark.parametrize("mode", COMBINE_MODES)
def test_one_weighted_reference(mode):
    expected = A if mode == "average" else 0.5 * A
    torch.testing.assert_close(combine([A], mode, [0.5]), expected)


@pytest.mark.parametrize("mode", COMBINE_MODES)
def test_inputs_stay_and_half_precision_does_not_overflow(mode):
    big = torch.full((1, 3), 60000.0, dtype=torch.float16)
    copies = [A.clone(), B.clone()]
    combine([A, B], mode, [2.0, 3.0])
    assert torch.equal(A, copies[0]) and torch.equal(B, copies[1])
    if mode not in ("add",):
        assert torch.isfinite(combine([big, big], mode, [1.0, 1.0])).all()


weights_of_3 = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=3, max_size=3)


@given(weights_of_3.filter(lambda w: sum(map(abs, w)) > 1e-3), st.integers(0, 2**16))
def test_average_and_add_do_not_depend_on_the_order(weights, seed):
    generator = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(1, 4, 6, generator=generator) for _ in range(3)]
    for mode in ("average", "add", "norm average", "max", "min"):
        forward = combine(embeddings, mode, weights)
        torch.testing.assert_close(forward, combine(embeddings[::-1], mode, weights[::-1]), rtol=1e-4, atol=1e-4)
        assert torch.isfinite(forward).all()


@given(st.floats(0.01, 3))
def test_average_takes_weights_as_shares(weight):
    torch.testing.assert_close(combine([A, A, A], "average", [weight] * 3), A)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([A], "concat", [1.0]), UnitError, "“concat” is unknown; choose one of average"),
        (([], "add", []), UnitError, "no reference"),
        (([A, B], "add", [1.0]), UnitError, "1 weights came with 2 references"),
        (([A], "add", [float("nan")]), UnitError, "not a finite number"),
        (([A, B], "average", [0.0, 0.0]), UnitError, "all references have weight 0"),
        (([A, B[:, :3]], "add", [1.0, 1.0]), MismatchError, "same image encoder"),
    ],
)
def test_errors(arguments, error, says):
    with pytest.raises(error, match=says):
        combine(*arguments)
