"""The bounds, held against sums by hand and episodes that are really played.

What is played shares no code with `bounds.py`: policies come from the rules of
the tasks, written once more; a posterior from playing in all problems.
"""

import functools
import itertools

import gymnasium
import numpy as np
import pytest

import bounds
import envs
from bounds import Grid, Model, make_model, no_exploration, pearl_ub, search

CORNERS = (0, 0), (8, 8), (0, 8), (8, 0)
INNER = (4, 5), (5, 4), (3, 4), (4, 3)
OUTER = (0, 1), (0, 7), (8, 1), (8, 7)
ORDERS = [*itertools.permutations(range(4))]

KITCHENS = [6, 17, 36]  # (0, 1, 2), (1, 0, 1), (2, 1, 0): no ingredient 3
POTS = [pot for n in range(4) for pot in itertools.product(range(3), repeat=n)]
STATES = itertools.product(range(3), range(3), (0, 1, 2, 4), POTS, range(4))
STATES = {state: k for k, state in enumerate(STATES)}

TASKS = ["coupling", "bus", "map", "distracting-bus", "cooking"]


def grid(name, **options):
    return Grid(envs.make(name, 1, split="test", **options))


# ------------------------------------------------------- policies by hand


@functools.cache
def distances(problem, corner):
    """Steps from every cell of a city to a corner, and each action's cell."""
    cells = [*itertools.product(range(9), repeat=2)]
    to = {cell: cell for cell in cells}
    for bus, stop in enumerate(ORDERS[problem]):
        to[INNER[bus]], to[OUTER[stop]] = OUTER[stop], INNER[bus]
    after = {}
    for x, y in cells:
        ways = (max(x - 1, 0), y), (x, min(y + 1, 8))
        ways += (min(x + 1, 8), y), (x, max(y - 1, 0))
        after[x, y] = [*ways, to[x, y]]
    steps = {CORNERS[corner]: 0}
    for n in range(1, 20):
        for cell in set(cells) - steps.keys():
            if any(steps.get(way) == n - 1 for way in after[cell]):
                steps[cell] = n
    return steps, after


def stage_after(stage, held, pot, instruction):
    wanted = divmod(instruction, 4)[stage // 2]
    if stage % 2 == 0:
        return stage + (held == wanted)
    if pot[stage // 2 :][:1] == (wanted,):
        return stage + 1
    return stage - (held != wanted)


def cook(problem, instruction, state, action):
    """The rules of the kitchen: new state and reward."""
    x, y, held, pot, stage = state
    dx, dy = [(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (0, 0)][action]
    x, y = min(max(x + dx, 0), 2), min(max(y + dy, 0), 2)
    picks = action == 4 and x == 2
    if picks:
        held = problem // 4 ** (2 - y) % 4
    if action == 5:
        if (x, y) == (1, 1) and held < 4 and len(pot) < 3:
            pot = (*pot, held)
        held = 4
    after, reward = stage_after(stage, held, pot, instruction), -0.1
    if after > stage:
        reward = 0.25
    elif after < stage:
        reward = -0.45
    elif picks and stage % 2 == 0:
        reward = -0.35
    return (x, y, held, pot, after), reward


@functools.cache
def recipe(problem, instruction):
    """The best actions of a kitchen, [t][state, action]."""
    then, reward = np.zeros((2, len(STATES), 6))
    for state, k in STATES.items():
        for a in range(6):
            new, reward[k, a] = cook(problem, instruction, state, a)
            then[k, a] = STATES.get(new, -1)  # -1: done, all stages
    value, best = np.zeros(len(STATES) + 1), []
    for left in range(1, 21):
        q = np.full((len(STATES), 7), -0.1 * left)
        q[:, :6] = reward + value[then.astype(int)]
        value[:-1] = q.max(1)
        best.insert(0, q > value[:-1, None] - 1e-9)
    return best


class Coupling:
    """What an agent keeps in mind of an episode: here, nothing."""

    done = True

    def __init__(self, instruction, steps):
        pass

    def best(self, guess, t):
        return [guess]

    def look(self, seen):
        pass


class City:
    """Where it is."""

    done = False

    def __init__(self, corner, steps):
        self.corner, self.steps, self.cell = corner, steps, (4, 4)

    def best(self, guess, t):
        steps, after = distances(guess, self.corner)
        if steps[self.cell] > self.steps - t:
            return range(6)
        ways = enumerate(after[self.cell])
        return [a for a, way in ways if steps[way] < steps[self.cell]]

    def look(self, seen):
        self.cell = tuple(seen[:2])
        self.done = self.cell == CORNERS[self.corner]


class Kitchen:
    """What it sees, and the stage that follows from it."""

    done = False

    def __init__(self, instruction, steps):
        self.instruction, self.state = instruction, (1, 1, 4, (), 0)

    def best(self, guess, t):
        best = recipe(guess, self.instruction)[t][STATES[self.state]]
        return np.flatnonzero(best)

    def look(self, seen):
        x, y, _, held, *pot = seen
        pot = tuple(item for item in pot if item < 4)
        stage = stage_after(self.state[4], held, pot, self.instruction)
        self.state, self.done = (x, y, held, pot, stage), stage == 4


MINDS = {"coupling": Coupling, "bus": City, "map": City, "cooking": Kitchen}


# ---------------------------------------------------------------- PEARL-UB


class Player:
    """Plays trials in copies of a task, one copy for each test problem."""

    def __init__(self, name, rewards):
        setting = "imrl-rewards" if rewards else "imrl"
        one = envs.make(name, 1, split="test")
        self.problems = one.problems["test"]
        self.offers = one.offers["test"][self.problems, :-1]
        self.mind, self.rewards = MINDS[name], rewards
        self.able = [np.flatnonzero(x) for x in self.offers.T]
        self.one, self.watch = one, envs.make(name, len(self.problems))
        self.pay = {
            n: envs.make(name, n, setting=setting)
            for n in {len(able) for able in self.able} - {0}
        }

    def explore(self, choose, real):
        """What is believed of each problem, (P,), after an exploration."""
        n = len(self.problems)
        belief = np.ones(n)
        if self.rewards:
            given = choose(self.offers[real])
            belief = belief * self.offers[:, given] / self.offers.sum(1)
            guess = choose(belief)
        else:
            guess = choose(belief)
            given = choose(self.offers[guess])
        # The same actions in all problems, to see which of them look like this
        self.watch.explore(self.problems)
        able = self.able[given]
        pay = self.pay[len(able)]
        pay.explore(self.problems[able], np.full(len(able), given))
        mind = self.mind(given, self.watch.max_steps)
        for t in range(self.watch.max_steps):
            best = mind.best(self.problems[guess], t)
            action = best[choose(np.ones(len(best)))]
            batch, *_ = self.watch.step(np.full(n, action))
            seen = batch["observation"]
            belief = belief * (seen == seen[real]).all(1)
            if self.rewards:
                paid = pay.step(np.full(len(able), action))[0]["reward"]
                belief[able] *= np.isclose(paid, paid[able == real])
            mind.look(seen[real].tolist())
            if mind.done or self.watch.done[real]:
                return belief

    def execute(self, choose, real, guess, instruction):
        """The return of acting on a guess."""
        self.one.reset(
            options={
                "problem": self.problems[real],
                "instruction": instruction,
            }
        )
        mind, total = self.mind(instruction, self.one.max_steps), 0.0
        for t in range(self.one.max_steps):
            best = mind.best(self.problems[guess], t)
            action = best[choose(np.ones(len(best)))]
            batch, reward, done, _, _ = self.one.step([action])
            mind.look(batch["observation"][0].tolist())
            total += reward[0]
            if done[0]:
                return total

    def posterior(self, belief, instruction):
        return belief * self.offers[:, instruction] / self.offers.sum(1)


@pytest.fixture
def few_kitchens(monkeypatch):
    monkeypatch.setattr(envs.Cooking, "test_problems", KITCHENS)


@functools.cache
def exact(name):
    return pearl_ub(grid(name))


@pytest.mark.parametrize("rewards", [False, True])
@pytest.mark.parametrize(
    "name, n",
    [("coupling", 1000), ("bus", 200), ("map", 200), ("cooking", 300)],
)
def test_pearl_ub_is_what_is_earned_on_average(name, n, rewards, few_kitchens):
    player, random = Player(name, rewards), np.random.default_rng(0)

    def choose(weights):
        return random.choice(len(weights), p=weights / np.sum(weights))

    returns = []
    for real, instruction in random.choice(np.argwhere(player.offers), n):
        belief = player.explore(choose, real)
        guess = choose(player.posterior(belief, instruction))
        returns.append(player.execute(choose, real, guess, instruction))
    error = np.std(returns) / np.sqrt(n)
    assert abs(np.mean(returns) - exact(name)[1 + rewards].mean()) < 4 * error


def outcomes(play):
    """All that play(choose) may return, each with its probability."""
    todo = [(1.0, [])]
    while todo:
        p, script = todo.pop()
        made = iter(script)

        def choose(weights, made=made, script=script):
            nonlocal p
            chosen = next(made, None)
            if chosen is None:
                share = np.array(weights, float) / np.sum(weights)
                chosen, *others = np.flatnonzero(share)
                todo.extend((p * share[k], [*script, k]) for k in others)
                p *= share[chosen]
                script.append(chosen)
            return chosen

        yield play(choose), p


@pytest.mark.parametrize("rewards", [False, True])
@pytest.mark.parametrize("name, steps", [("coupling", 1), ("bus", 4)])
def test_pearl_ub_by_brute_force(name, steps, rewards, monkeypatch):
    """All trials that may happen are played. In the bus city of 4 steps, where
    half of three guesses is wrong, rides tell, and rewards do not."""
    monkeypatch.setattr(envs.Bus, "max_steps", steps)
    monkeypatch.setattr(envs.Bus, "test_problems", [0, 1, 8])
    player = Player(name, rewards)
    P, n = player.offers.shape

    @functools.cache
    def earned(real, guess, i):
        ends = outcomes(lambda choose: player.execute(choose, real, guess, i))
        return sum(p * total for total, p in ends)

    expected = np.zeros((P, n))
    for real in range(P):
        explore = functools.partial(player.explore, real=real)
        for belief, p in outcomes(explore):
            for i in range(n):
                guess = player.posterior(belief, i)
                guess = guess / guess.sum()
                total = [
                    guess[g] * earned(real, g, i) for g in guess.nonzero()[0]
                ]
                expected[real, i] += p * sum(total)
    result = pearl_ub(grid(name))[1 + rewards]
    np.testing.assert_allclose(result, expected.ravel())
    assert expected.std() > 1e-3 or name == "coupling"


@pytest.mark.parametrize("actions", [2, 3, 8])
def test_coupling_by_hand(actions):
    """1/A asks. With rewards 1/A of the others hit; else A - 1 are left."""
    A, view = actions, grid("coupling", num_actions=actions)
    optimum, without, told = pearl_ub(view)
    assert (optimum == 1).all()
    assert without.mean() == pytest.approx(1 / A + (1 - 1 / A) / A)
    asks, hits = 1 / A, (1 - 1 / A) / A
    misses = 1 - asks - hits
    expected = asks + hits + misses / (A - 1)
    assert told.mean() == pytest.approx(expected)
    assert no_exploration(view) == pytest.approx(1 / A)


def test_two_cities_by_hand(monkeypatch):
    """They differ in two buses, and go to each corner by one.

    Half of the explorations tell them apart. After the others, instructions
    that need one of the two are executed rightly, 0.8, or never, -2.
    """
    monkeypatch.setattr(envs.Bus, "test_problems", [0, 1])
    optimum, *results = pearl_ub(grid("bus"))
    assert np.allclose(optimum, 0.8)
    unsure = (0.8 - 2) / 2
    by_corner = [0.8, (0.8 + unsure) / 2, 0.8, (0.8 + unsure) / 2]
    assert np.allclose(results, 2 * by_corner)


def test_who_is_shown_the_problem_need_not_guess(monkeypatch):
    """`bus` with show_id: every observation has it, also the first."""
    monkeypatch.setattr(envs.Bus, "test_problems", [0, 1, 8])
    view = grid("bus", show_id=True)
    assert np.allclose(pearl_ub(view), 0.8)
    assert no_exploration(view) == pytest.approx(0.8)


@pytest.mark.parametrize("name", TASKS)
def test_nothing_beats_the_optimum(name, few_kitchens, monkeypatch):
    some = [1, 2, 24, 30, 100, 575]
    monkeypatch.setattr(envs.DistractingBus, "test_problems", some)
    optimum, without, told = exact(name)
    task = envs.make(name, split="test")
    assert np.allclose(optimum, task.optimal_return(*task.pairs().T))
    for result in (without, told):
        assert (result <= optimum + 1e-9).all()
        assert result.mean() < optimum.mean()
    assert no_exploration(Grid(task)) < optimum.mean()


# ---------------------------------------------------------- no exploration


@pytest.mark.parametrize(
    "T, price, best", [(1, 0.1, 1 / 3), (2, 0.1, 0.9), (2, 0.8, 1 / 3)]
)
def test_looking_pays_if_it_is_cheap(T, price, best):
    """Three problems: action p + 1 pays in problem p, action 0 shows p."""
    right = np.eye(3, 4, 1)[:, None]  # (P, S, A), one state
    seen, after = np.zeros((3, 1, 4), int), np.full((3, 1, 4), -1)
    seen[:, 0, 0], after[..., 0], right[..., 0] = range(3), 0, -price
    last = np.full_like(after, -1)
    steps = T * [seen], (T - 1) * [after] + [last], T * [right]
    model = Model(np.zeros(3, int), *steps)
    assert search(model, [0, 1, 2]) == pytest.approx(best)
    assert search(model, [1]) == pytest.approx(1)
    shown = model._replace(start=np.array([0, 0, 1]))
    unsure = 2 * max(best, 0.5)
    assert search(shown, [0, 1, 2]) == pytest.approx((1 + unsure) / 3)


def test_in_the_city_one_walks():
    model = make_model(grid("bus"), 0, explores=False)
    assert search(model, range(24)) == pytest.approx(0.3)
    assert search(model, [5]) == pytest.approx(0.8)


def test_two_kitchens():
    """0, 1, 2 or 2, 1, 0; first 0, then 2: the first pick tells which.

    Each of the four stages takes two moves and pays: 4 * (0.25 - 0.2) = 0.2.
    Half of the time the pick is wrong, -0.35, and two more moves away the other
    fridge is right: -0.2.
    """
    view = grid("cooking")
    model = make_model(view, 2, explores=False)
    two = np.searchsorted(view.task.problems["test"], [6, 36])
    assert search(model, two[:1]) == pytest.approx(0.2)
    assert search(model, two) == pytest.approx(0.2 - 0.55 / 2)


def best_of_all_plays(name, problems, instruction, steps):
    """The largest mean return, from playing every sequence of actions."""
    one = envs.make(name)
    A, P = len(one.actions), len(problems)
    plays = [*itertools.product(range(A), repeat=steps)]
    task = envs.make(name, P * len(plays))
    problem = np.repeat(problems, len(plays))
    task.reset(options={"problem": problem, "instruction": instruction})
    seen, paid = [], []
    for actions in np.tile(plays, (P, 1)).T:
        batch, reward, *_ = task.step(actions)
        code = batch["observation"] @ 10 ** np.arange(len(one.space.nvec))
        seen.append(code.reshape(P, -1))
        paid.append(reward.reshape(P, -1))

    def value(t, number, group):
        """Of a group that has looked the same; its plays begin at `number`."""
        if t == steps:
            return 0.0
        results = []
        for a in range(A):
            play, parts = number + a * A ** (steps - t - 1), {}
            for p in group:
                parts.setdefault(seen[t][p, play], []).append(p)
            later = sum(value(t + 1, play, part) for part in parts.values())
            results.append(paid[t][group, play].sum() + later)
        return max(results)

    return value(0, 0, [*range(P)]) / P


@pytest.mark.parametrize(
    "name, problems, steps, instructions",
    [
        ("coupling", [*range(8)], 1, [0]),
        ("bus", [0, 1, 8, 23], 5, [0, 1]),
        ("map", [0, 7], 5, [3]),
        ("cooking", [6, 17, 36], 5, [0, 1, 5, 6]),
    ],
)
def test_search_by_brute_force(
    name, problems, steps, instructions, monkeypatch
):
    """Episodes of few steps: seeing a first ride, one may take another."""
    kind = envs.TASKS[name]
    monkeypatch.setattr(kind, "max_steps", steps)
    monkeypatch.setattr(kind, "test_problems", problems)
    for i in instructions:
        model = make_model(grid(name), i, explores=False)
        group = np.flatnonzero(envs.make(name).offers["test"][problems, i])
        some = np.array(problems)[group]
        expected = best_of_all_plays(name, some, i, steps)
        assert search(model, group) == pytest.approx(expected)


# --------------------------------------------------------------- the model


def sign_nav(n):
    try:
        return envs.make("sign-nav", n, split="test")
    except gymnasium.error.DependencyNotInstalled as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", [*TASKS, "sign-nav"])
def test_a_model_is_what_is_played(name, monkeypatch):
    """The same random actions in all test problems, by model and by task."""
    some = [*range(1, 576, 25)]
    monkeypatch.setattr(envs.DistractingBus, "test_problems", some)
    random = np.random.default_rng(0)
    if name == "sign-nav":
        task = sign_nav(2)
        start = np.array([4.5, 4.5, 4.5])  # to the south and a little west
        view, problems = bounds.SignNav(task, start), np.arange(2)
        odds = [0.15, 0.1, 0.75]
    else:
        view = grid(name)
        problems = view.task.problems["test"]
        task = envs.make(name, len(problems))
        odds = np.full(len(task.actions), 1.0)
        odds[-1] = odds[-1] if name == "coupling" else 0.1
        odds = odds / odds.sum()
    instruction = 2 if len(task.names) > 2 else 0
    model, n, ends = make_model(view, instruction, False), len(problems), 0
    for _ in range(40):
        task.reset(options={"problem": problems})
        task.goal = np.full(n, instruction)  # on offer or not
        if name == "sign-nav":
            task.state = np.tile(start, (n, 1))
        state, live = np.zeros(n, int), np.ones(n, bool)
        for t in range(task.max_steps):
            action = random.choice(len(odds), p=odds)
            batch, reward, done, _, _ = task.step(np.full(n, action))
            at = np.arange(n)[live], state[live], action
            np.testing.assert_allclose(model.reward[t][at], reward[live])
            seen, shown = model.seen[t][at], batch["observation"][live]
            alike = seen[:, None] == seen
            same = (shown[:, None] == shown).reshape(*alike.shape, -1)
            np.testing.assert_array_equal(alike, same.all(-1))
            state[live] = model.after[t][at]
            np.testing.assert_array_equal(state[live] < 0, done[live])
            live = live & ~done
            if not live.any():
                break
        ends += t + 1 < task.max_steps
    assert ends or name == "coupling"


# ---------------------------------------------------------------- sign-nav


def test_sign_nav_search_agrees_with_one_over_walks():
    """Who sees the sign earns 1 if both objects can then be reached in time,
    1/2 if one can; who does not has an even chance of 1 or -1."""
    task = sign_nav(3)
    from test_sign_nav import Walks

    task.reset(seed=1)
    returns = set()
    for start in task.state:
        walks = Walks(start[None])
        total = walks.steps + [walks.left(thing=k) for k in range(6)]
        in_time = (total <= 12).reshape(2, 3, -1).sum(0)  # (objects, N)
        reads = walks.reads(in_time.any(0))
        expected = (in_time * reads).max(1) / 2
        view = bounds.SignNav(task, start)
        models = [make_model(view, i, explores=False) for i in range(3)]
        found = [search(model, [0, 1]) for model in models]
        assert found == pytest.approx(expected.tolist())
        assert no_exploration(view) == pytest.approx(expected.mean())
        returns |= set(found)
    assert len(returns) > 1


def test_going_straight_reads_no_sign():
    """Without rewards an even chance of 1 or -1; with, the color is known."""
    task = sign_nav(2)
    task.reset(seed=2)
    for start in task.state:
        optimum, without, told = pearl_ub(bounds.SignNav(task, start))
        assert np.allclose(optimum, 1)
        assert np.allclose(without, 0)
        assert np.allclose(told, 1)


# --------------------------------------------------------------------- csv


@pytest.mark.parametrize("name", ["coupling", "bus"])
def test_the_table_is_what_is_computed(name, capsys):
    before = bounds.CSV.read_bytes()
    bounds.main(name)
    lines = bounds.CSV.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == [
        line for line in lines if line.startswith(name + ",")
    ]
    assert bounds.CSV.read_bytes() == before


def test_only_the_whole_table_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "CSV", tmp_path / "new" / "bounds.csv")
    monkeypatch.setattr(bounds, "TASKS", ["coupling"])
    bounds.main("coupling")
    assert not bounds.CSV.exists()
    bounds.main()
    row = "coupling,1.0000,0.2344,0.3438,0.1250,"
    assert bounds.CSV.read_text() == f"{bounds.HEADER}\n{row}\n"


def test_the_table_has_all_tasks_in_order():
    header, *lines = bounds.CSV.read_text().splitlines()
    assert header == bounds.HEADER
    rows = {name: row for name, *row in (x.split(",") for x in lines)}
    assert [*rows] == [*bounds.TASKS]
    for name, (*figures, starts) in rows.items():
        optimum, *others = map(float, figures)
        assert max(others) <= optimum
        assert starts == (str(bounds.STARTS) if name == "sign-nav" else "")
        if name != "sign-nav":
            task = envs.make(name, split="test")
            expected = task.optimal_return(*task.pairs().T).mean()
            assert optimum == pytest.approx(expected, abs=5e-5)
    assert 0.3 < float(rows["sign-nav"][3]) <= 0.4
