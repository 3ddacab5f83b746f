"""The fake family as a module, the way the static table of recipe families names one."""

from __future__ import annotations

from tests.zoo.build import fake

RECIPES = fake.FAMILY.recipes
check_checkpoint = fake.FAMILY.check_checkpoint
known_unused = fake.FAMILY.known_unused
