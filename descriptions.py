"""What tasks say of a problem and of an instruction in attributes, words and
pictures, and how it is read: for `--problem-id` and `--instruction`.

A description tells all that makes a problem what it is: no two are the same.
An instruction's tells nothing of the problem. envs.py loads this file when it
is asked for, also for pictures of tasks and for what is told in advance.
"""

import numpy as np
import torch
from torch import nn

# Four colors that the colour-blind can tell apart (Okabe and Ito), and others
COLORS = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167)]
DARK = [tuple(x // 2 for x in color) for color in COLORS]  # for useless buses
COLORS += [(160, 160, 160), (240, 228, 66), (0, 0, 0), *DARK, (255, 255, 255)]
GREY, YELLOW, BLACK, FIRST_DARK, WHITE = 4, 5, 6, 7, -1


class About:
    """What is said of one task. `facts(truth)` are sentences about the problem
    whose row of task.attributes is `truth`, `order(i)` is the i-th instruction;
    `view` and `errand` are pictures of them. `cells` are colors (W, H), also
    those of `render`."""

    def __init__(self, task):
        self.task = task


class AboutCoupling(About):
    goals = ["paid action"]

    def cells(self, mu, goal, state):
        """x: what is shown (last: nothing); y: whether it explores."""
        cells = np.full((len(self.task.actions) + 1, 2), WHITE)
        cells[mu] = YELLOW
        return cells

    def facts(self, truth):
        return [f"action {' '.join(str(truth[0]))} pays"]  # digits

    def order(self, i):
        return "pull"

    def view(self, mu, goal):
        return paint(self.cells(mu, goal, None))

    def errand(self, i):
        return paint(np.full((len(self.task.actions) + 1, 2), YELLOW))


class AboutBus(About):
    goals = "lower left", "upper right", "upper left", "lower right"
    buses = "north", "east", "west", "south"  # envs.Bus.inner
    buses += "northeast", "southwest", "northwest", "southeast"
    stops = "lower left", "upper left", "lower right", "upper right"  # .outer
    stops += "left", "bottom", "right", "top"

    def cells(self, mu, goal, state):
        cells = np.minimum(self.task.bus[mu], GREY)  # 4 to 7 are of no use
        if goal >= 0:
            cells[tuple(self.task.goals[goal])] = YELLOW
        return cells

    def facts(self, truth):
        ways = zip(self.buses, truth)
        return [
            f"the {bus} bus goes to the {self.stops[to]}" for bus, to in ways
        ]

    def order(self, i):
        return f"go to the {self.goals[i]}"

    def view(self, mu, goal):
        cells = self.cells(mu, goal, None)
        useless = self.task.bus[mu] >= 4
        cells[useless] = self.task.bus[mu][useless] - 4 + FIRST_DARK
        return paint(cells)

    def errand(self, i):
        cells = np.full((9, 9), WHITE)
        cells[tuple(self.task.goals[i])] = YELLOW
        return paint(cells)


class AboutCooking(About):
    fridges = "lower", "middle", "upper"
    food = "tomato", "onion", "carrot", "mushroom"

    def cells(self, mu, goal, state):
        """The kitchen; above it what is held, in the pot, and wanted."""
        cells = np.full((3, 6), 4)  # nothing
        cells[0, 3], cells[:, 4] = state[2], state[3:6]
        cells[:2, 5] = self.task.tokens[goal]
        cells[cells == 4] = WHITE
        cells[2, :3], cells[1, 1] = self.task.fridges[mu], GREY
        return cells

    def facts(self, truth):
        names = zip(self.fridges, [self.food[x] for x in truth])
        return [f"the {fridge} fridge holds {food}" for fridge, food in names]

    def order(self, i):
        first, second = [self.food[x] for x in self.task.tokens[i]]
        return f"first {first} , then {second}"

    def view(self, mu, goal):
        return paint(self.cells(mu, -1, np.full(7, 4))[:, :3])

    def errand(self, i):
        return paint(np.tile(self.task.tokens[i], (3, 1)))


class AboutSignNav(About):
    goals = "ball", "block", "key"
    colors = "blue", "red"
    # Where they are looked at from: (x, z, heading). The objects are those in
    # blue, but shown in grey: an instruction names no color.
    sign = 6, 8.8, 0
    objects = (1, 2.5, np.pi / 2), (7.5, 5, 0), (5, 2.2, np.pi / 2)

    def facts(self, truth):
        return [f"the sign says {self.colors[truth[0]]}"]

    def order(self, i):
        return f"fetch the {self.goals[i]}"

    def view(self, mu, goal):
        frame = self.task.world.draw([mu], [self.sign])[0]
        if goal >= 0:  # beside what to fetch
            frame = np.hstack([frame, self.errand(goal)])
        return frame

    def errand(self, i):
        frame = self.task.world.draw([0], [self.objects[i]])[0]
        return np.uint8(frame.mean(2, keepdims=True).repeat(3, 2))


def paint(cells):
    """An RGB picture of cells (W, H), of 3 x 3 pixels each."""
    return np.uint8(COLORS)[cells.T[::-1]].repeat(3, 0).repeat(3, 1)


# Sentences are made of these words, of which the first pads them.
WORDS = ["", *"""
    , the action pays bus goes to go fridge holds sign says goal is first then
    pull fetch lower upper left right bottom top middle north east west
    south northeast southwest northwest southeast tomato onion carrot mushroom
    paid ball block key blue red
""".split(), *"0123456789"]  # fmt: skip


def encode(sentences):
    """The numbers of their words, (n, L)."""
    rows = [[WORDS.index(word) for word in x.split()] for x in sentences]
    longest = max(map(len, rows))
    return np.array([row + [0] * (longest - len(row)) for row in rows])


ABOUT = {"Coupling": AboutCoupling, "Bus": AboutBus}
ABOUT |= {"Cooking": AboutCooking, "SignNav": AboutSignNav}


def about(task):
    """What is said of this task."""
    for kind in type(task).__mro__:  # by name, as sign_nav.py needs OpenGL
        if kind.__name__ in ABOUT:
            return ABOUT[kind.__name__](task)
    raise ValueError(f"descriptions.py has nothing about {type(task).__name__}")


def sentence(of, truth, goal):
    """All about the problem with these attributes."""
    facts = of.facts(truth)
    if goal >= 0:
        facts.append(f"the goal is the {of.goals[goal]}")
    return " , ".join(facts)


def problem_id(task, form):
    """Of each of P problems its attributes (P, K), words (P, L) or an RGB
    picture (P, H, W, 3); and the numbers of the training problems."""
    of, mu = about(task), np.arange(task.num_problems)
    goal = np.full(len(mu), -1)
    if task.setting == "standard":
        mu, goal = np.divmod(mu, task.num_goals)
    truth = task.attributes[mu]
    if form == "attributes":
        said = truth if goal[0] < 0 else np.column_stack([truth, goal])
        # Each attribute has values, and rows of an embedding, of its own.
        said = said + np.cumsum([0, *said.max(0)[:-1] + 1])
    elif form == "words":
        said = encode([sentence(of, *x) for x in zip(truth, goal)])
    else:
        said = np.array([of.view(*pair) for pair in zip(mu, goal)])
    return said, task.problems["train"]


def instruction(task, form):
    """Of each of I instructions and, last, of none: words (I + 1, L), or an RGB
    picture (I + 1, H, W, 3); and the numbers of those seen in training."""
    of, which = about(task), range(len(task.names))
    if task.setting == "standard":
        raise ValueError("instruction: empty in setting standard, so one-hot")
    known = np.delete(np.arange(len(task.tokens)), task.test_instructions)
    if form == "words":
        return encode([*(of.order(i) for i in which), ""]), known
    pictures = [of.errand(i) for i in which]
    return np.array([*pictures, np.zeros_like(pictures[0])]), known


def picture(task, k):
    """RGB of the k-th copy; a black square is where its state (x, y) is."""
    cells = about(task).cells(task.mu[k], task.goal[k], task.state[k])
    picture = paint(cells)
    x, y = task.state[k, :2]
    picture[-3 * y - 2, 3 * x + 1] = COLORS[BLACK]
    return picture.repeat(8, 0).repeat(8, 1)


def hints(task):
    """The first attributes of each problem, (N, num_told), of which at most
    task.told, chosen at random, are told; the others read "not told"."""
    n, random, tell = task.num_envs, task.np_random, task.tell
    if tell is None:
        tell = random.integers(task.told + 1, size=n)
    ranks = random.random((n, task.num_told)).argsort(1).argsort(1)
    truth = task.attributes[:, : task.num_told]
    shown = ranks < tell[:, None]
    return np.where(shown, truth[task.mu], truth.max(0) + 1)


class Reader(nn.Module):
    """Sums of embedded attributes, what a GRU makes of words, or convolutions
    of a picture. In the latter two, the mean over the descriptions seen in
    training is taken away: otherwise what is common to all dominates, and the
    penalty |f(mu)|^2 shrinks f to 0. What is left is made a vector of length 1:
    a step of the optimizer moves each weight by about the learning rate, and
    would otherwise change the output the more, the more features there are."""

    def __init__(self, task, what, hidden, std):
        """std: standard deviation of each part's output at initialization."""
        super().__init__()
        describe = {"problem_id": problem_id, "instruction": instruction}[what]
        self.form = task.forms[what]
        # A problem is one vector; an instruction keeps its L parts apart.
        self.sums = what == "problem_id"
        said, known = map(torch.as_tensor, describe(task, self.form))
        self.register_buffer("said", said, persistent=False)
        self.register_buffer("known", known, persistent=False)
        if self.form == "picture":
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=3), nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                nn.Flatten(),
            )  # fmt: skip
        else:
            self.embedding = nn.Embedding(int(said.max()) + 1, hidden)
        if self.form == "words":
            # Both ways: read forwards only, few outputs know of the last words.
            self.encoder = nn.GRU(
                hidden, hidden, batch_first=True, bidirectional=True
            )
            # The update gate: at first sigmoid(2) = 0.88 of a state is kept.
            for name, p in self.encoder.named_parameters():
                if name.startswith("bias_hh"):
                    nn.init.constant_(p[hidden:-hidden], 2.0)
        if self.form == "attributes":
            nn.init.normal_(self.embedding.weight, std=std)
        else:
            size = self.encode(known[:1]).shape[2]
            self.last = nn.Linear(size, hidden, bias=False)
            nn.init.normal_(self.last.weight, std=std)

    def encode(self, numbers):
        """Features of descriptions (n,), (n, L, size): L is the number of words
        of an instruction, else 1."""
        x = self.said[numbers]
        if self.form == "picture":
            x = x.permute(0, 3, 1, 2) / 255  # (n, 3, H, W)
            return self.encoder(x)[:, None]
        x = self.embedding(x)
        if self.form == "words":
            x = self.encoder(x)[0]
        return x.sum(1, keepdim=True) if self.sums else x

    def forward(self, numbers):
        """Problems (...) -> (..., hidden); instructions (..., 1) -> their parts
        (..., L, hidden)."""
        rows, index = numbers.unique(return_inverse=True)
        x = self.encode(rows)
        if self.form != "attributes":
            x = x - self.encode(self.known).mean(0)
            x = self.last(nn.functional.normalize(x, dim=2))
        return x[index].flatten(-3, -2)
