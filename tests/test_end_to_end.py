"""RL^2, IMPORT, VariBAD: Q-learning over whole trials, and what each adds."""

import inspect
import io
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest import mock

import gymnasium.spaces
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import envs
import import_
import rl2
import varibad

torch.set_num_threads(1)
ALL = rl2, import_, varibad
METHODS = pytest.mark.parametrize("method", ALL)


# --- Untrained networks, in which everything matters, and trials --------------
def arguments(method, setting="imrl", **q_learning):
    args = method.Args()
    args.task.setting = setting
    vars(args.q_learning).update({"hidden_size": 16} | q_learning)
    if method is varibad:
        args.varibad.latent_size = 8
    return args


def agents(method, task, args):
    torch.manual_seed(0)
    for _ in range(2):
        agent = method.Agent(task, args)
        for module in agent.modules():
            if isinstance(module, method.Memory):
                torch.nn.init.normal_(module.reward.weight)
        if method is import_:
            torch.nn.init.normal_(agent.h_mu.weight)
        yield agent


def sharpen(agent):
    """What is known decides what is done."""
    for part in (agent.memory.lstm, agent.head.advantage):
        for p in part.parameters():
            p.data *= 4
    if isinstance(agent, varibad.Agent):
        agent.posterior.weight.data *= 5
        agent.known.weight.data *= 5


def play(method, agent, args, task, given, epsilons, knows_mu=None, mu=None):
    """A trial; only IMPORT is told which of its problems it knows."""
    inputs = {"agent": agent, "args": args, "task": task, "mu": mu}
    inputs |= {"instructions": given, "epsilons": epsilons}
    if method is import_:
        inputs["knows_mu"] = knows_mu
        if knows_mu is None:
            inputs["knows_mu"] = torch.arange(task.num_envs) % 2 == 0
    return method.trial(**inputs)


def trials(method, env="map", setting="imrl", B=12, **q_learning):
    args = arguments(method, setting, **q_learning)
    task = envs.make(env, B, setting=setting)
    task.reset(seed=0)
    agent, target = agents(method, task, args)
    given, epsilons = [None, None], (0.9, 0.9)
    tau_exp, (tau_exec,), _ = play(method, agent, args, task, given, epsilons)
    assert len({*tau_exp["length"].tolist()}) > 1 or env == "coupling"
    return args, agent, target, tau_exp, tau_exec


def frames(method, B=4, T=5, **q_learning):
    """The same of a task that shows frames, all at random."""
    args = arguments(method, **q_learning)
    space = {
        "observation": gymnasium.spaces.Box(0, 255, (60, 80, 3), np.uint8),
        "instruction": gymnasium.spaces.MultiDiscrete([3, 4]),
    }
    task = SimpleNamespace(
        single_observation_space=space, actions=range(3), num_problems=2,
        forms={"problem_id": "one-hot", "instruction": "one-hot"},
    )  # fmt: skip
    agent, target = agents(method, task, args)

    def episode(length, none):
        prev_action = torch.randint(3, (B, T + 1))
        prev_action[:, 0] = 3
        instruction = torch.randint(2, (B, 1, 2))
        instruction = torch.tensor([2, 3]) if none else instruction
        length = torch.tensor(length)
        reward = torch.randn(B, T) * method.valid(length, T) * (not none)
        return {
            "observation": torch.randint(256, (B, T + 1, 60, 80, 3)).byte(),
            "instruction": instruction.expand(B, T + 1, 2),
            "prev_action": prev_action,
            "prev_reward": torch.zeros(B, T + 1),
            "reward": reward,
            "length": length,
        }

    tau_exp = episode([5, 2, 1, 4], none=True)
    tau_exp |= {"mu": torch.tensor([0, 1, 1, 0])}
    tau_exp |= {"knows_mu": torch.arange(B) < 2}
    return args, agent, target, tau_exp, episode([3, 5, 2, 4], none=False)


def step(tau, b, t):
    names = "observation", "instruction", "prev_action", "prev_reward"
    return {name: tau[name][b : b + 1, t : t + 1] for name in names}


def unroll(net, taus, b, **known):
    """What a recurrent network gives at each observation of one trial, its
    episodes one after the other, step by step: [(length + 1, ...), ...]."""
    state, outputs = None, []
    for tau in taus:
        outputs.append([])
        for t in range(tau["length"][b] + 1):
            out, state = net(step(tau, b, t), **known, state=state)
            outputs[-1].append(out[0, 0])
    return [torch.stack(out) for out in outputs]


def known(method, tau_exp, b):
    if method is not import_:
        return {}
    return {name: tau_exp[name][b : b + 1] for name in ("mu", "knows_mu")}


# --- Q-learning over a whole trial --------------------------------------------
KINDS = {
    "map": {},
    "coupling": {"env": "coupling"},
    "cooking": {"env": "cooking"},
    "Peng": {"cut_traces": False},
    "online": {"setting": "online"},
    "rewards": {"setting": "imrl-rewards"},
    "standard": {"setting": "standard"},
    "frames": None,
}


@METHODS
@pytest.mark.parametrize("kind", KINDS)
def test_losses_against_a_slow_loop(method, kind):
    changes = {"q_lambda": 0.6, "gamma": 0.9}
    start = frames if kind == "frames" else trials
    changes |= KINDS[kind] or {}
    args, agent, target, tau_exp, tau_exec = start(method, **changes)
    loss = method.losses(agent, target, tau_exp, tau_exec, args)
    taus, traces = {"exploration": tau_exp, "execution": tau_exec}, 0
    for b in range(len(tau_exp["length"])):
        mine = known(method, tau_exp, b)
        q = unroll(agent, taus.values(), b, **mine)
        target_q = unroll(target, taus.values(), b, **mine)
        after = 0.0
        # From the end of the trial to its beginning
        for k, name in (1, "execution"), (0, "exploration"):
            tau, gamma = taus[name], args.q_learning.gamma if k else 1.0
            errors = []
            for t in reversed(range(int(tau["length"][b]))):
                action, greedy = tau["prev_action"][b, t + 1], q[k][t].argmax()
                G = tau["reward"][b, t].item() + gamma * after
                errors.append((q[k][t][action] - G) ** 2)
                trace = 0.6 if action == greedy or kind == "Peng" else 0.0
                traces += trace > 0
                value = target_q[k][t][greedy].item()
                after = (1 - trace) * value + trace * G
            expected = sum(errors) / tau["length"].float().mean()
            torch.testing.assert_close(loss[name][b], expected)
    assert traces  # else it is only one-step learning
    exploring = tau_exp["reward"].any()
    assert exploring == (kind == "online")  # where its reward counts


@METHODS
@pytest.mark.parametrize("start", [trials, frames])
def test_joined(method, start):
    """Both episodes, and a step without reward, but no padding, between."""
    _, _, _, tau_exp, tau_exec = start(method)
    tau = method.join(tau_exp, tau_exec)
    longest = int((tau_exp["length"] + tau_exec["length"]).max()) + 2
    assert tau["prev_action"].shape[1] == longest
    for name in ("observation", "instruction", "prev_action", "prev_reward"):
        for b, length in enumerate(tau["length"]):
            first, second = tau_exp["length"][b] + 1, tau_exec["length"][b] + 1
            assert length + 1 == first + second
            parts = tau_exp[name][b, :first], tau_exec[name][b, :second]
            assert torch.cat(parts).equal(tau[name][b, : length + 1])
    assert tau["explored"].equal(tau_exp["length"])
    for b, length in enumerate(tau["length"]):
        first, second = tau_exp["length"][b], tau_exec["length"][b]
        parts = tau_exp["reward"][b, :first], tau_exec["reward"][b, :second]
        rewards = torch.cat([parts[0], torch.zeros(1), parts[1]])
        assert rewards.equal(tau["reward"][b, :length])
        assert (tau["reward"][b, length:] == 0).all()


@METHODS
@pytest.mark.parametrize("start", [trials, frames])
def test_padding_never_changes_a_loss(method, start):
    args, agent, target, tau_exp, tau_exec = start(method)
    torch.manual_seed(1)
    before = method.losses(agent, target, tau_exp, tau_exec, args)
    for tau in tau_exp, tau_exec:
        for name in ("observation", "prev_action", "prev_reward"):
            T = tau[name].shape[1]
            tau[name][~method.valid(tau["length"] + 1, T)] = 1
    torch.manual_seed(1)
    after = method.losses(agent, target, tau_exp, tau_exec, args)
    for name, loss in before.items():
        torch.testing.assert_close(loss, after[name])


def gradients(loss, *parameters):
    inputs = loss.mean(), parameters
    found = torch.autograd.grad(*inputs, retain_graph=True, allow_unused=True)
    return any(g is not None and g.abs().sum() > 0 for g in found)


TAUGHT = {
    rl2: {
        "execution": "memory head",
        "exploration": "memory head",
    },
    import_: {
        "execution": "memory h_tau h_mu head",
        "exploration": "memory h_tau h_mu head",
        "embedding": "memory h_tau",
    },
    varibad: {
        "execution": "eyes known head",
        "exploration": "eyes known head",
        "elbo": "memory posterior decoder.action decoder.instruction "
        "decoder.next decoder.reward",
    },
}


@METHODS
@pytest.mark.parametrize("start", [trials, frames])
def test_which_loss_teaches_what(method, start):
    args, agent, target, tau_exp, tau_exec = start(method)
    loss = method.losses(agent, target, tau_exp, tau_exec, args)
    names = {name.split(".")[0] for name, _ in agent.named_parameters()}
    names |= {f"decoder.{x}" for x in ("action", "instruction")}
    names |= {f"decoder.{x}" for x in ("next", "reward")}
    names -= {"decoder"}
    taught = {name: set() for name in loss}
    for part in names:
        if part.split(".")[0] in dict(agent.named_children()):
            parameters = [*agent.get_submodule(part).parameters()]
            for name in loss:
                if gradients(loss[name], *parameters):
                    taught[name].add(part)
    expected = {name: {*x.split()} for name, x in TAUGHT[method].items()}
    assert taught == expected
    assert not gradients(sum(loss.values()), *target.parameters())


# --- Acting with a memory that goes on ----------------------------------------
@METHODS
@pytest.mark.parametrize("setting", ["imrl", "imrl-rewards", "standard"])
def test_executions_remember_all_that_was_before(method, setting):
    """Played greedily, executions do what a slow loop over the trial says."""
    args = arguments(method, setting)
    task = envs.make("map", 24, setting=setting)
    task.reset(seed=0)
    agent, _ = agents(method, task, args)
    sharpen(agent)
    n = len(task.names)
    given = [None, *(torch.full((24,), k % n).numpy() for k in (0, 1, 2))]
    epsilons = 0.9, 0.0
    tau_exp, tau_execs, infos = play(method, agent, args, task, given, epsilons)
    assert len(tau_execs) == 3 and len(infos) == 4
    for tau, k, info in zip((tau_exp, *tau_execs), (None, 0, 1, 2), infos):
        assert k is None or (info["instruction"] == k % n).all()
        assert (info["steps"] == tau["length"].numpy()).all()
    same, forgetful = [], []
    for b in range(24):
        mine = known(method, tau_exp, b)
        with torch.no_grad():
            remembered = unroll(agent, [tau_exp, *tau_execs], b, **mine)[1:]
        for k, tau in enumerate(tau_execs):
            taken = tau["prev_action"][b, 1 : tau["length"][b] + 1]
            same.append(remembered[k][:-1].argmax(1).equal(taken))
            with torch.no_grad():
                (alone,) = unroll(agent, [tau], b, **mine)
            forgetful.append(alone[:-1].argmax(1).equal(taken))
    assert all(same)
    if setting != "standard":  # where one instruction is all there is
        assert not all(forgetful)  # the test can fail


@METHODS
def test_a_memory_goes_on_from_each_copy_s_own_end(method):
    _, agent, _, tau_exp, tau_exec = trials(method)
    with torch.no_grad():
        state = method.remember(agent.memory, tau_exp, None)
        twice = method.remember(agent.memory, tau_exec, state)
    for b in range(12):
        alone = None
        for tau, together in (tau_exp, state), (tau_exec, twice):
            for t in range(tau["length"][b] + 1):
                with torch.no_grad():
                    _, alone = agent.memory(step(tau, b, t), alone)
            for x, y in zip(together, alone):
                torch.testing.assert_close(x[:, b], y[:, 0])


@METHODS
def test_episodes_that_all_end_early(method):
    """They leave padding that no copy has ever reached."""
    args = arguments(method)
    task = envs.make("map", 4)
    agent, target = agents(method, task, args)
    agent.head.advantage[-1].bias.data[5] = 100.0  # end
    inputs = agent, args, task, [None, None], (0, 0)
    tau_exp, (tau_exec,), _ = play(method, *inputs)
    assert (tau_exp["length"] == 1).all() and (tau_exec["length"] == 1).all()
    loss = method.losses(agent, target, tau_exp, tau_exec, args)
    assert all(x.isfinite().all() for x in loss.values())


@METHODS
def test_execution_remembers_the_end_of_exploration(method):
    """coupling shows the problem in the last observation of exploration."""
    _, agent, _, tau_exp, tau_exec = trials(method, "coupling")

    def q():
        return torch.stack(
            [
                unroll(
                    agent, [tau_exp, tau_exec], b, **known(method, tau_exp, b)
                )[1][0]
                for b in range(12)
            ]
        )

    before = q()
    tau_exp["observation"][:, 1] = (tau_exp["observation"][:, 1] + 1) % 8
    same = (before == q()).all(1)
    knows = torch.zeros(12, dtype=torch.bool)
    assert same.equal(tau_exp["knows_mu"] if method is import_ else knows)


@METHODS
def test_exploring_alone(method):
    args = arguments(method)
    task = envs.make("map", 4)
    agent, _ = agents(method, task, args)
    mu = torch.tensor([3, 1, 4, 1]).numpy()
    inputs = agent, args, task, [None], (0.5, 0.5)
    tau_exp, tau_execs, infos = play(method, *inputs, mu=mu)
    assert tau_execs == [] and len(infos) == 1
    assert (infos[0]["problem"] == mu).all()
    if method is import_:
        assert tau_exp["mu"].tolist() == mu.tolist()


# --- Training -----------------------------------------------------------------
def run(method, *words):
    """The status of a command line, and what it has said."""
    output, error, status = io.StringIO(), io.StringIO(), 0
    with mock.patch("sys.argv", [method.__file__, *map(str, words)]):
        with redirect_stdout(output), redirect_stderr(error):
            try:
                method.main()
            except SystemExit as stopped:
                status = stopped.code
    return status, output.getvalue(), error.getvalue()


SMALL = "--env map --num-envs 16 --hidden-size 8 --batch-size 8".split()
SMALL += "--eval-every 1000 --updates-per-round 2".split()


@METHODS
@pytest.mark.parametrize("setting", envs.SETTINGS)
def test_command_line(method, setting, tmp_path):
    words = *SMALL, "--setting", setting, "--run-dir", tmp_path
    status, said, error = run(method, *words, "--total-steps", 600)
    assert status == 0 and said.startswith("map, seed 0: test return "), error
    assert run(method, "--eval", tmp_path) == (0, said, "")
    assert run(method, *words, "--total-steps", 600)[0] == 2
    words = *words, "--total-steps", 3000, "--resume"
    status, more, error = run(method, *words)
    assert status == 0 and more != said, error
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    names = rows[0].split(",")
    losses = [f"{name}_loss" for name in TAUGHT[method]]
    assert names[-len(losses) :] == losses and len(rows) >= 4
    last = dict(zip(names, map(float, rows[-1].split(","))))
    assert all(np.isfinite(last[name]) for name in losses)
    for other in {*ALL} - {method}:
        status, _, error = run(other, "--eval", tmp_path)
        assert status == 2 and method.METHOD in error


@METHODS
def test_coupling_is_learned(method, tmp_path):
    words = "--env coupling --num-actions 4 --hidden-size 32".split()
    words += "--total-steps 8000 --eval-every 8000".split()
    status, said, error = run(method, *words, "--run-dir", tmp_path)
    assert status == 0 and "test return 1.000" in said, said + error


def spy(monkeypatch, place, name):
    """Of each call: the arguments by their names, and what it gave."""
    calls, function = [], getattr(place, name)

    def call(*args, **kwargs):
        names = inspect.signature(function).bind(*args, **kwargs).arguments
        given = function(*args, **kwargs)
        calls.append((names, given))
        return given

    monkeypatch.setattr(place, name, call)
    return calls


@METHODS
def test_what_a_run_plays_and_learns(method, tmp_path, monkeypatch):
    played = spy(monkeypatch, method, "trial")
    learned = spy(monkeypatch, method, "losses")
    sampled = spy(monkeypatch, method.ReplayBuffer, "sample")
    optimizers = spy(monkeypatch, torch.optim, "AdamW")
    words = *SMALL, "--total-steps", 1500, "--weight-decay", 0.1
    words += "--priority", 0.8
    assert run(method, *words, "--run-dir", tmp_path)[0] == 0
    rounds = [x for x, _ in played if x["task"].split == "train"]
    tests = [x for x, _ in played if x["task"].split == "test"]
    assert len(rounds) > 2 and len(tests) > 1

    # Training: epsilon falls from 1 to 0.15 in half of it
    steps = 0
    for x, (_, _, infos) in played:
        if x["task"].split == "test":
            continue
        epsilon = max(1 - 0.85 * steps / 750, 0.15)
        assert x["epsilons"] == pytest.approx((epsilon, epsilon))
        steps += sum(info["steps"].sum() for info in infos)
    assert epsilon == 0.15
    for x in rounds:
        assert x["mu"] is None and x["instructions"] == [None, None]
    agent, target = (learned[0][0][name] for name in ("agent", "target"))
    assert all(x["agent"] is agent for x in rounds)
    for x in tests:
        assert x["epsilons"] == (0, 0) and x["agent"] is target
    if method is import_:
        share = torch.cat([x["knows_mu"] for x in rounds]).float().mean()
        assert 0.3 < share < 0.7
        assert not any(x["knows_mu"].any() for x in tests)

    # Learning: all but h(mu) decays; what was drawn has its TD error
    groups = optimizers[0][1].param_groups
    decays = {
        p: group["weight_decay"] for group in groups for p in group["params"]
    }
    assert {*decays} == {*agent.parameters()} and agent is not target
    for name, p in agent.named_parameters():
        assert decays[p] == (0.0 if name == "h_mu.weight" else 0.1)
    of_map = 1e-3 if method is import_ else 2e-3
    assert all(group["lr"] == of_map for group in groups)
    _, loss = learned[-1]
    instance, slots = (sampled[-1][0][name] for name in ("self", "slots"))
    error = loss["execution"] + loss["exploration"]
    expected = (error.detach() + 1e-6) ** 0.4
    for slot in slots:  # drawn twice, one of two holds
        near = torch.isclose(instance.priority[slot], expected)
        assert near[slots == slot].any()
    assert len(learned) == 2 * len(rounds)


# --- IMPORT -------------------------------------------------------------------
def test_import_passes_on_only_h():
    """With the id, the past is forgotten; without, the id changes nothing."""
    _, agent, _, tau, _ = trials(import_)

    def changed(**changes):
        q = [
            agent({name: x[name] for name in import_.READ}, x["mu"], knows_mu)
            for x in (tau, tau | changes)
        ]
        return (q[0][0] != q[1][0]).any(2)  # (12, T + 1)

    knows_mu, changes = tau["knows_mu"], {}
    for name, sizes in ("prev_action", 6), ("observation", torch.tensor(9)):
        changes[name] = tau[name].clone()
        changes[name][:, 1] = (tau[name][:, 1] + 1) % sizes
    acted = changed(prev_action=changes["prev_action"])
    assert not acted[:, 0].any() and acted[:, 1:].any(1).equal(~knows_mu)
    # What is seen now is not forgotten
    changes["observation"][..., 2] = tau["observation"][..., 2]
    seen = changed(observation=changes["observation"])
    assert seen[:, 1].all() and seen[:, 2:].any(1).equal(~knows_mu)
    other = changed(mu=(tau["mu"] + 1) % 24)
    assert other.equal(knows_mu[:, None].expand(other.shape))


@pytest.mark.parametrize("start", [trials, frames])
def test_import_pulls_the_trial_towards_the_id(start):
    """Over every step of both episodes; it moves no id."""
    args, agent, target, tau_exp, tau_exec = start(import_)
    args.import_.pull_coef = 0.3
    loss = import_.losses(agent, target, tau_exp, tau_exec, args)["embedding"]
    taus, steps = (tau_exp, tau_exec), 0
    for b in range(len(tau_exp["mu"])):
        exp, exe = unroll(agent.memory, taus, b)
        x = torch.cat([exp, exe[:-1]])  # all at which it acts, and one end
        steps += len(x)
        h = agent.h_tau(x[:, :16])
        gap = ((h - agent.h_mu.weight[tau_exp["mu"][b]]) ** 2).sum()
        length = 1 + sum(tau["length"] for tau in taus).float().mean()
        torch.testing.assert_close(loss[b], 0.3 * gap / length)
    assert steps == round(length.item() * len(loss))


def test_import_defaults():
    for env, pull in ("map", 1.0), ("cooking", 0.1), ("sign-nav", 0.1):
        with mock.patch("sys.argv", ["import_.py", "--env", env]):
            assert import_.parse().import_.pull_coef == pull


def test_import_begins_with_ids_that_are_nearly_equal():
    args = import_.Args()
    agent = import_.Agent(envs.make("distracting-bus"), args)
    assert abs(agent.h_mu.weight.std() - 0.1) < 0.01


def test_the_id_never_reaches_meta_test(monkeypatch):
    args, agent, _, _, _ = trials(import_)
    sharpen(agent)

    def actions():
        played = spy(monkeypatch, import_, "act")
        import_.evaluate(agent, args)
        monkeypatch.undo()
        return torch.stack([tau["prev_action"] for _, (tau, _) in played])

    honest = actions()
    assert len(honest) == 2
    torch.nn.init.normal_(agent.h_mu.weight)
    assert actions().equal(honest)
    torch.nn.init.normal_(agent.h_tau.weight)  # the test can fail
    assert not actions().equal(honest)


# --- VariBAD ------------------------------------------------------------------
def test_varibad_divergence():
    new, old = torch.randn(2, 5, 3, 8)
    normal = [Normal(x[..., :4], (x[..., 4:] / 2).exp()) for x in (new, old)]
    expected = kl_divergence(*normal).sum(-1)
    torch.testing.assert_close(varibad.divergence(new, old), expected)


@pytest.mark.parametrize("start", [trials, frames])
def test_varibad_elbo(start, monkeypatch):
    """What is predicted of both episodes, and the mean divergence of each
    posterior from the one before, the first from Normal(0, I)."""
    args, agent, target, tau_exp, tau_exec = start(varibad)
    B = len(tau_exp["length"])
    error, of = torch.rand(2, B), []

    def decoding_error(agent, m, tau):
        of.append((m, tau))
        return error[len(of) - 1]

    monkeypatch.setattr(varibad, "decoding_error", decoding_error)
    args.varibad.kl_coef, args.varibad.prefixes = 0.7, 3
    loss = varibad.losses(agent, target, tau_exp, tau_exec, args)["elbo"]
    (m, first), (same, second) = of
    assert first is tau_exp and second is tau_exec and same is m
    assert m.shape == (B, 3, 8)
    mean_length = (tau_exp["length"] + tau_exec["length"]).float().mean()
    for b in range(B):
        exp, exe = unroll(agent.believe, (tau_exp, tau_exec), b)
        old, total = Normal(torch.zeros(8), 1.0), 0.0
        posteriors = torch.cat([exp, exe])
        for x in posteriors:
            new = Normal(x[:8], (x[8:] / 2).exp())
            total += kl_divergence(new, old).sum()
            old = new
        kl = total / len(posteriors)
        expected = (error[:, b].sum() + 0.7 * kl) / mean_length
        torch.testing.assert_close(loss[b], expected)


def test_varibad_predicts_from_posteriors_of_all_steps(monkeypatch):
    args, agent, target, tau_exp, tau_exec = trials(varibad)
    given = spy(monkeypatch, varibad, "decoding_error")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    args.varibad.prefixes = 400
    varibad.losses(agent, target, tau_exp, tau_exec, args)
    for b in range(12):
        m = given[0][0]["m"][b]  # (400, 8)
        exp, exe = unroll(agent.believe, (tau_exp, tau_exec), b)
        means = torch.cat([exp, exe])[:, :8]
        near = (m[:, None] - means).abs().amax(2) < 1e-5
        assert near.any(1).all() and near.any(0).all()


def test_varibad_latents_have_mean_and_variance(monkeypatch):
    args, agent, target, tau_exp, tau_exec = trials(varibad)
    torch.nn.init.zeros_(agent.posterior.weight)
    mean = torch.linspace(-2, 2, 8)
    log_var = torch.linspace(-3, 2, 8)
    agent.posterior.bias.data = torch.cat([mean, log_var])
    given = spy(monkeypatch, varibad, "decoding_error")
    args.varibad.prefixes = 500
    varibad.losses(agent, target, tau_exp, tau_exec, args)
    m = given[0][0]["m"].flatten(0, 1)
    close = {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(m.mean(0), mean, **close)
    torch.testing.assert_close(m.std(0), (log_var / 2).exp(), **close)
    (moved,) = torch.autograd.grad(m.sum(), agent.posterior.bias)
    assert (moved[:8] == len(m)).all() and (moved[8:] != 0).all()


@pytest.mark.parametrize("reward", ["none", "paid", "shown", "both"])
def test_varibad_predicts_every_transition(reward):
    """With an instruction, rewards as well: those of exploration are shown, but
    not paid, in `imrl-rewards`; those of execution are paid, but not shown."""
    _, agent, _, tau_exp, tau_exec = trials(varibad)
    tau, decoder = tau_exec, agent.decoder
    earned = tau["reward"]
    assert (earned != 0).any() and not tau["prev_reward"].any()
    if reward == "none":
        tau = tau_exp | {"reward": earned}  # there is no instruction
    elif reward != "paid":
        shown = torch.nn.functional.pad(earned, (1, 0))
        tau = tau | {"prev_reward": shown}
    if reward == "shown":
        tau = tau | {"reward": torch.zeros_like(earned)}
    m, nvec = torch.randn(12, 3, 8), decoder.sizes
    assert (
        nvec
        == envs.make("map")
        .single_observation_space["observation"]
        .nvec.tolist()
    )
    found = varibad.decoding_error(agent, m, tau)
    for b in range(12):
        total = 0.0
        for t in range(tau["length"][b]):
            now = {"observation": tau["observation"][b, t : t + 2][None]}
            s, s_next = agent.memory.encode(now)[0]
            action = decoder.action.weight[tau["prev_action"][b, t + 1]]
            i = decoder.instruction(tau["instruction"][b, t]).flatten()
            for k in range(3):
                x = torch.cat([m[b, k], s, action])
                logits = decoder.next(x).split(nvec)
                for x_, token in zip(logits, now["observation"][0, 1]):
                    total += torch.nn.functional.cross_entropy(x_, token) / 3
                if reward != "none":
                    guess = decoder.reward(torch.cat([x, s_next, i]))[0]
                    total += (guess - earned[b, t]) ** 2 / 3
        torch.testing.assert_close(found[b], total)


def test_varibad_predicts_blocks_of_pixels():
    frame = torch.randint(256, (2, 60, 80, 3)).byte()
    predicted = torch.rand(2, 4, 3 * 6 * 8)
    found = varibad.surprise(frame, predicted, [3 * 6 * 8])
    for r in range(2):
        for k in range(4):
            total, guess = 0.0, iter(predicted[r, k])
            for color in range(3):
                for y in range(0, 60, 10):
                    for x in range(0, 80, 10):
                        block = frame[r, y : y + 10, x : x + 10, color]
                        block = block.float().mean() / 255
                        total += (next(guess) - block) ** 2
            torch.testing.assert_close(found[r, k], total)


def test_varibad_acts_on_what_it_sees_and_on_mean_and_variance():
    _, agent, _, tau, _ = trials(varibad)
    belief, _ = agent.believe(tau)
    before = agent.q(tau, belief)
    for part in range(16):
        other = belief.detach().clone()
        other[:, :, part] += 1
        assert (agent.q(tau, other) != before).any()
    seen = tau["observation"].clone()
    seen[:, 3, 0] = (seen[:, 3, 0] + 1) % 9
    changed = (agent.q(tau | {"observation": seen}, belief) != before).any(2)
    assert changed[:, 3].all() and changed.sum() == 12  # then, not later
    # By s together with what is believed, within bounds; and by s alone
    agent.known.weight.data *= 1e6
    s = torch.ones(12, 21, 16)
    agent.eyes.encode = lambda tau: s
    known = agent.known(torch.cat([belief, s], 2)).sign()
    q = agent.head(torch.cat([known, 0.2 * s], 2), tau["instruction"])
    torch.testing.assert_close(agent.q(tau, belief), q)


def test_varibad_defaults():
    for env, coef in ("map", 4e-3), ("coupling", 4e-4):
        with mock.patch("sys.argv", ["varibad.py", "--env", env]):
            args = varibad.parse().varibad
            assert (args.kl_coef, args.prefixes) == (coef, 4)


def test_varibad_has_a_latent_of_that_size(monkeypatch):
    args = arguments(varibad)
    args.varibad.latent_size = 5
    task = envs.make("map", 4)
    task.reset(seed=0)
    agent, target = agents(varibad, task, args)
    taus = play(varibad, agent, args, task, [None, None], (1, 1))
    given = spy(monkeypatch, varibad, "decoding_error")
    varibad.losses(agent, target, taus[0], taus[1][0], args)
    assert given[0][0]["m"].shape == (4, 4, 5)
