"""The 52 actions as a person makes them whose head was registered, without a take to learn from."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel
from topohead.geometry.gradients import GradientOperator
from topohead.solvers.scan_followers import Followers

SMOOTHINGS = 60
"""Of deformation gradients, along edges: registered lips are pressed together, and what that does
to single triangles is no trait of the person."""
WHOLE = ("tongue", "teeth_upper", "teeth_lower", "eye_left", "eye_right")
"""Parts that follow one gradient each."""
ROUNDS = 3
"""Times that the head at rest is found under its expression; each is worth two digits."""

LEAST = 0.05
"""Sum of squared coefficients below which nothing is read from an expression."""


@dataclass(frozen=True)
class PersonalActions:
    """Carries a head model's actions to people of its topology by deformation gradients.

    An action moves a vertex by F · (its motion on the template), F being how the person's skin
    around is stretched and turned against the template's (Sumner and Popović 2004): a broad mouth
    smiles broadly, large eyes close.
    """

    head: HeadModel
    gradients: GradientOperator
    followers: Followers

    @staticmethod
    def of(head: HeadModel) -> "PersonalActions":
        """Of a head with the reference's regions."""
        known = tuple(name for name in WHOLE if name in head.topology.regions)
        operator = GradientOperator.of(head.topology, head.template, SMOOTHINGS, known)
        return PersonalActions(head, operator, Followers.of(head))

    def carried(self, neutral: Float[Tensor, "V 3"]) -> Float[Tensor, "52 V 3"]:
        """The actions of a head at rest in the head frame, metres.

        Each, played alone and fully, keeps its lids outside the globes and its lips and lids from
        passing through each other farther than they do at rest.
        """
        basis = self.head.expression_basis
        gradients = self.gradients(neutral[None].float())[0]
        played = neutral.float() + torch.einsum("vab,kvb->kva", gradients, basis)
        return self.followers.played(neutral.float(), played) - neutral.float()

    def at_rest(
        self, shown: Float[Tensor, "V 3"], expression: Float[Tensor, " 52"]
    ) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "52 V 3"]]:
        """The head under an expression, and its actions: neutral + Σ expression · action = shown.

        All in the head frame, metres. The head at rest has lips and lids apart; what that asks of
        the expression goes into the actions that are played.
        """
        shown, expression = shown.float(), expression.float()
        played = float(expression.square().sum())
        neutral, actions = shown, self.head.expression_basis
        for _ in range(ROUNDS if played else 1):
            neutral = shown - torch.tensordot(expression, actions, 1)
            if played > LEAST:
                neutral = self.followers.apart(neutral[None])[0]
            actions = self.carried(neutral)
        rest = shown - neutral - torch.tensordot(expression, actions, 1)
        if played > LEAST:
            return neutral, actions + (expression / played)[:, None, None] * rest
        return neutral + rest, actions
