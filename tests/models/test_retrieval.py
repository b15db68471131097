import numpy as np
import pytest

from models import retrieval

LINE = np.arange(6.0)[:, None]  # six sources on a line


def test_neighbours_come_nearest_first_without_the_own_group():
    order = retrieval.ranked(LINE, [0, 0, 1, 2, 3, 4])

    assert order[0].tolist() == [2, 3, 4, 5, -1, -1]
    assert order[3].tolist() == [2, 4, 1, 5, 0, -1]


@pytest.mark.parametrize(("metric", "nearest"), [("l1", 1), ("l2", 2), ("cosine", 3)])
def test_the_metric_decides_who_is_near(metric, nearest):
    vectors = np.array([[1.0, 1.0], [1.0, 2.9], [2.5, 2.5], [9.0, 9.0]])
    vectors[2] = [2.2, 2.2] if metric == "l2" else vectors[2]

    assert retrieval.ranked(vectors, np.arange(4), metric)[0, 0] == nearest


def test_precision_counts_the_first_k_that_have_the_tag():
    degree = np.array([1, 1, 0, 1, 0, 0])
    order = retrieval.ranked(LINE, np.arange(6))

    found = retrieval.precision(order, degree, 3)

    assert found[:2].tolist() == [pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert np.isnan(found[[2, 4, 5]]).all()


def test_doubtful_sources_are_neither_queries_nor_neighbours():
    degree = np.array([1, 0.5, 1, 0, 0, 0])
    order = retrieval.ranked(LINE, np.arange(6))

    found = retrieval.precision(order, degree, 1)

    assert found[0] == 1  # the doubtful one lies nearer
    assert np.isnan(found[1])


def test_average_precision_is_that_of_the_definition():
    degree = np.array([1, 0, 1, 0, 1, 0])
    order = retrieval.ranked(LINE, np.arange(6))

    assert retrieval.average_precision(order, degree)[0] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_a_tag_without_a_second_member_has_no_average_precision():
    order = retrieval.ranked(LINE, np.arange(6))

    assert np.isnan(retrieval.average_precision(order, np.array([1, 0, 0, 0, 0, 0]))).all()


def test_the_share_among_neighbours_asks_only_the_known():
    order = retrieval.ranked(LINE, np.arange(6))
    is_so = np.array([True, True, False, True, False, False])
    known = np.array([True, False, True, True, True, True])

    assert retrieval.share_among(order, is_so, known, k=2)[0] == 0.5


def test_equal_rankings_overlap_fully():
    order = retrieval.ranked(LINE, np.arange(6))

    assert retrieval.overlap(order, order, k=3) == 1
    assert retrieval.overlap(order, order[:, ::-1], k=2) < 0.5


def test_a_probe_reads_what_lies_in_the_vectors_and_nothing_else():
    rng = np.random.default_rng(0)
    is_so = rng.random(200) < 0.4
    vectors = rng.normal(size=(200, 20))
    fold = np.arange(200) % 4
    blind = retrieval.probe(vectors, is_so, fold)
    vectors[:, 7] += 6 * is_so

    p = retrieval.probe(vectors, is_so, fold)

    assert ((p > 0.5) == is_so).mean() > 0.9
    assert ((blind > 0.5) == is_so).mean() < 0.75


def test_turning_many_numbers_into_few_changes_no_probe():
    rng = np.random.default_rng(2)
    vectors, is_so = rng.normal(3, 2, (30, 80)), rng.random(30) < 0.5
    plain = (vectors - vectors.mean(0)) / vectors.std(0)
    fold = np.arange(30) % 3

    turned = retrieval.standardised(vectors)

    assert turned.shape == (30, 30)
    assert retrieval.probe(turned, is_so, fold) == pytest.approx(
        retrieval.probe(plain, is_so, fold), abs=1e-3
    )


def test_a_probe_without_both_classes_gives_nothing():
    vectors = np.random.default_rng(0).normal(size=(20, 3))

    assert np.isnan(retrieval.probe(vectors, np.zeros(20, bool), np.arange(20) % 2)).all()


def test_tags_count_alike_however_many_queries_they_have():
    values = np.full((10, 2), np.nan)
    values[:8, 0] = 0.2
    values[8:, 1] = 0.6

    found = retrieval.mean_over_tags(values, np.arange(10))

    assert found.value == pytest.approx(0.4)


def test_intervals_widen_when_queries_share_a_group():
    values = np.random.default_rng(0).random((60, 1))
    values = np.sort(values, axis=0)

    alone = retrieval.mean_over_tags(values, np.arange(60))
    grouped = retrieval.mean_over_tags(values, np.arange(60) // 10)

    assert alone.low < alone.value < alone.high
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_the_mean_area_leaves_out_what_is_not_known():
    truth = np.array([[1, 0], [0, 1], [1, np.nan], [0, 1]], float)
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.1], [np.nan, 0.7]])

    assert retrieval.mean_auc(truth, p, np.arange(4)).value == 1
