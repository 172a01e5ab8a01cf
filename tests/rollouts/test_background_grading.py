"""Grading beside generation: it starts early, changes nothing, and its errors surface with their own traceback."""

import threading
import time
import traceback
from types import SimpleNamespace

import pytest
from scripted import ScriptedGenerator

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.config.registry import REWARDS, register_reward
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rollouts.env_runner import BackgroundGrader, QAEnvRunner, show
from sharegrpo_rl.rollouts.groups import plan_requests

ENV = {"kinds": ["counting"], "num_wordings": 3, "max_questions": 20, "image_size": 28}
OPTIONS = {
    "env_config": ENV, "num_generations": 3, "max_completion_tokens": 64, "format_prompt": "",
    "rewards": {"accuracy": 0.5, "watched": 0.5},
}  # fmt: skip


@pytest.fixture
def reward():
    """A reward named `watched` whose function a test may set: `reward.function`."""
    held = SimpleNamespace(function=lambda completions, **columns: [float(len(c)) for c in completions])
    register_reward("watched", lambda completions, **columns: held.function(completions, **columns))
    yield held
    del REWARDS.user_functions["watched"]


@pytest.fixture
def make_runner(policy, reward):
    """A real env runner with a scripted engine; `each` is called before the engine answers each prompt."""

    def make(each=lambda place: None, **options):
        class Watched(ScriptedGenerator):
            def generate(self, prompts, num_generations, seeds, sampling, on_prompt_done=None):
                results = []
                for place, prompt in enumerate(prompts):
                    each(place)
                    (answers,) = super().generate([prompt], num_generations, [seeds[place]], sampling)
                    results.append(answers)
                    if on_prompt_done is not None and not options.get("silent"):
                        on_prompt_done(place, answers)
                return results

        class Runner(QAEnvRunner):
            def make_generator(self):
                return Watched(policy, lambda prompt, i: f"<think>{'a' * i}</think><answer>{i}</answer>")

        made = Runner(config=build_config("ShareGRPO", "DrawnShapes-v0", OPTIONS, 0))
        made.share_module(SimpleNamespace(policy=policy))
        return made

    return make


def requests_of(runner):
    return plan_requests(runner.env.bank, [(0, 3), (0, 5), (1, 3)], runner.options, 0, 0)


def test_grading_starts_before_generation_ends(make_runner, reward):
    started, graders = threading.Event(), []

    def watched(completions, **columns):
        graders.append(threading.current_thread())
        started.set()
        return [1.0] * len(completions)

    reward.function = watched
    # The second answer waits until the first is being graded: without a grader beside the engine it would wait forever.
    runner = make_runner(lambda place: place == 0 or started.wait(120) or pytest.fail("nothing was graded"))
    episodes = runner.sample(requests=requests_of(runner))
    assert len(episodes) == len(requests_of(runner)) * 3
    assert len(set(graders)) == 1
    assert graders[0] is not threading.main_thread()


@pytest.mark.parametrize("silent", [False, True])
def test_episodes_are_those_of_the_environment_itself(make_runner, silent):
    runner = make_runner(silent=silent)
    requests = requests_of(runner)
    episodes = iter(runner.sample(requests=requests))
    for request in requests:
        observation, info = show(runner.env, [request])[0]
        for sample in range(3):
            episode = next(episodes)
            assert episode.get_observations(0)["question"] == observation["question"]
            assert episode.custom_data["request"] is request
            assert episode.custom_data["sample"] == sample
            assert episode.infos[0]["question_id"] == info["question_id"]
            _, total, *_, graded = runner.env.step(episode.get_actions(0))
            assert episode.get_return() == pytest.approx(total)
            assert episode.custom_data["reward_parts"] == graded["reward_parts"]
    assert next(episodes, None) is None


def test_seconds_of_grading_and_of_waiting_for_it(make_runner, reward):
    def slow(completions, **columns):
        time.sleep(0.05)
        return [1.0] * len(completions)

    reward.function = slow
    hidden = make_runner(lambda place: time.sleep(0.1))
    hidden.sample(requests=requests_of(hidden))
    metrics = hidden.get_metrics()
    count = len(requests_of(hidden))
    assert metrics["grading_seconds"].peek() >= 0.05 * count
    assert metrics["grading_wait_seconds"].peek() < metrics["grading_seconds"].peek() / 2
    assert metrics["generation_seconds"].peek() >= 0.1 * count


def bad_weather(completions, **columns):
    raise ZeroDivisionError("a reward of the user's own")


def test_an_error_of_a_reward_keeps_its_traceback(make_runner, reward):
    reward.function = bad_weather
    runner = make_runner()
    with pytest.raises(ZeroDivisionError, match="user's own") as caught:
        runner.sample(requests=requests_of(runner))
    assert "bad_weather" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_what_the_user_did_wrong_stays_a_user_error_and_ends_generation(make_runner, reward):
    answered = []

    def wait(place):
        answered.append(place)
        time.sleep(0.05)

    reward.function = lambda completions, **columns: []
    runner = make_runner(wait)
    with pytest.raises(UserError, match="returned 0 values for 3"):
        runner.sample(requests=requests_of(runner))
    assert len(answered) < len(requests_of(runner))


def test_an_error_of_the_engine_ends_the_thread(make_runner):
    def broken(place):
        if place == 1:
            raise KeyError("the engine's own")

    before, runner = threading.active_count(), make_runner(broken)
    with pytest.raises(KeyError, match="engine's own"):
        runner.sample(requests=requests_of(runner))
    assert threading.active_count() == before


def test_the_question_on_show_stays(make_runner):
    runner = make_runner()
    env: MultimodalQAEnv = runner.env
    env.reset(options={"question_index": 7})
    requests = requests_of(runner)
    with BackgroundGrader(env, requests) as grader:
        grader.results([()] * len(requests))
    assert env._question is env.bank[7] or env._question.id == env.bank[7].id
