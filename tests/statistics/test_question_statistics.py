"""Statistics over questions and images: against statsmodels' cluster-robust regression, plain loops, and resampling."""

import numpy as np
import pytest
import statsmodels.api as sm

from sharegrpo_rl.statistics.questions import crossed_difference, crossed_interval, question_test
from sharegrpo_rl.statistics.seeds import t_interval


def verdicts(seeds, clusters, seed=0, level=0.6):
    """Right and wrong `[seeds, questions]`, alike within an image and within a seed."""
    random = np.random.default_rng(seed)
    image = random.normal(0, 1.5, clusters.max() + 1)[clusters]
    own = random.normal(0, 0.4, (seeds, 1))
    chance = 1 / (1 + np.exp(-(np.log(level / (1 - level)) + image + own)))
    return (random.random((seeds, len(clusters))) < chance).astype(float)


@pytest.fixture
def clusters():
    return np.repeat(np.arange(60), np.random.default_rng(3).integers(1, 6, 60))


def test_the_question_test_is_a_cluster_robust_regression_on_a_constant(clusters):
    a, b = verdicts(3, clusters, 1), verdicts(3, clusters, 2, 0.7)
    found = question_test(a, b, clusters)
    difference = a.mean(0) - b.mean(0)
    fit = sm.OLS(difference, np.ones(len(difference))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    assert found.value == pytest.approx(fit.params[0], abs=1e-9)
    assert found.standard_error == pytest.approx(fit.bse[0], abs=1e-9)
    assert found.p_value == pytest.approx(fit.pvalues[0], abs=1e-9)
    assert [found.low, found.high] == pytest.approx(fit.conf_int()[0].tolist(), abs=1e-9)


def test_with_one_question_an_image_it_is_the_paired_t_test():
    clusters = np.arange(80)
    a, b = verdicts(1, clusters, 1), verdicts(1, clusters, 2)
    from scipy import stats

    assert question_test(a, b, clusters).p_value == pytest.approx(stats.ttest_rel(a[0], b[0]).pvalue, abs=1e-9)


def slow_variances(y):
    """Mean squares of the two-way layout with one verdict in each cell, as plain loops."""
    seeds, questions = y.shape
    grand = sum(map(sum, y)) / (seeds * questions)
    rows = [sum(row) / questions for row in y]
    columns = [sum(y[s][q] for s in range(seeds)) / seeds for q in range(questions)]
    over_seeds = questions * sum((r - grand) ** 2 for r in rows) / (seeds - 1)
    over_questions = seeds * sum((c - grand) ** 2 for c in columns) / (questions - 1)
    rest = sum((y[s][q] - rows[s] - columns[q] + grand) ** 2 for s in range(seeds) for q in range(questions))
    return over_seeds, over_questions, rest / ((seeds - 1) * (questions - 1))


def test_the_crossed_interval_is_the_analysis_of_variance_with_one_question_an_image():
    clusters = np.arange(90)
    y = verdicts(4, clusters, 5)
    seeds, questions, rest = slow_variances(y.tolist() and y)
    error = np.sqrt((seeds + questions - rest) / y.size)
    found = crossed_interval(y, clusters)
    assert found.value == pytest.approx(y.mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(error, abs=1e-9)


def test_the_questions_variance_is_that_of_resampled_images(clusters):
    """The closed form against 20,000 draws of whole images, seeds held fixed."""
    y = verdicts(3, clusters, 7)
    images = clusters.max() + 1
    sums = np.array([y.mean(0)[clusters == c].sum() for c in range(images)])
    sizes = np.bincount(clusters)
    drawn = np.random.default_rng(0).integers(images, size=(20000, images))
    resampled = (sums[drawn].sum(1) / sizes[drawn].sum(1)).var() * images / (images - 1)
    found = question_test(y, np.zeros_like(y), clusters)
    assert found.standard_error**2 == pytest.approx(resampled, rel=0.06)


def test_the_crossed_interval_is_never_narrower_than_that_over_seeds(clusters):
    for seed in range(20):
        y, other = verdicts(3, clusters, seed), verdicts(3, clusters, 100 + seed)
        over_seeds = t_interval(y.mean(1))
        over_both = crossed_interval(y, clusters)
        assert over_both.high - over_both.low >= over_seeds.high - over_seeds.low - 1e-12
        paired = crossed_difference(y, other, clusters, paired=True)
        assert paired.value == pytest.approx(crossed_difference(y, other, clusters, paired=False).value)
        assert crossed_difference(y, y, clusters, paired=True).value == 0.0


def test_one_image_or_one_seed_is_refused(clusters):
    y = verdicts(2, clusters)
    with pytest.raises(ValueError, match="two images"):
        question_test(y, y, np.zeros(len(clusters), np.int64))
    with pytest.raises(ValueError, match="two of each"):
        crossed_interval(y[:1], clusters)
