"""The classes of the data set and the engine's object types behind them.

Half of the classes are surfaces that only geometry tells apart (floor, ledge and pit
differ in height alone), half are objects that colour tells apart.
"""

from __future__ import annotations

CLASSES = (
    'wall',
    'floor',
    'ledge',
    'pit',
    'ceiling',
    'sky',
    'monster',
    'tree',
    'pillar',
    'lamp',
    'barrel',
    'item',
)
IGNORE = 255
WALL, FLOOR, LEDGE, PIT, CEILING, SKY = range(6)
OBJECT_CLASSES = CLASSES[6:]

# The engine's own categories. What is missing here (corpses, gore, projectiles)
# becomes IGNORE: it looks like a mixture of the classes above.
_CATEGORY_CLASS = {
    'Monster': 'monster',
    'Vegetation': 'tree',
    'Decoration': 'pillar',
    'LightSource': 'lamp',
    'Hazard': 'barrel',
    'Health': 'item',
    'Armor': 'item',
    'Ammo': 'item',
    'Weapon': 'item',
    'Key': 'item',
    'Powerup': 'item',
}
_NAME_CLASS = {
    # Freedoom draws the stalagmite as a small green tree.
    'Stalagtite': 'tree',
    # A cloak of noise: neither image nor depth shows more than the background.
    'Spectre': None,
}

# What is summoned, by class: type name and radius in map units. The engine puts a
# summoned object at twice its radius plus the player's (16) before the player.
SUMMONED: dict[str, tuple[tuple[str, int], ...]] = {
    'monster': (
        ('Zombieman', 20),
        ('ShotgunGuy', 20),
        ('ChaingunGuy', 20),
        ('DoomImp', 20),
        ('Demon', 30),
        ('Cacodemon', 31),
        ('HellKnight', 24),
        ('BaronOfHell', 24),
        ('Revenant', 20),
    ),
    'tree': (('Stalagtite', 16), ('TorchTree', 16), ('BigTree', 32)),
    'pillar': (
        ('TechPillar', 16),
        ('TallRedColumn', 16),
        ('ShortRedColumn', 16),
        ('TallGreenColumn', 16),
        ('ShortGreenColumn', 16),
        ('HeartColumn', 16),
        ('SkullColumn', 16),
    ),
    'lamp': (
        ('Column', 16),
        ('Candelabra', 16),
        ('ShortRedTorch', 16),
        ('RedTorch', 16),
        ('GreenTorch', 16),
        ('BlueTorch', 16),
        ('TechLamp', 16),
        ('TechLamp2', 16),
    ),
    'barrel': (('ExplosiveBarrel', 10),),
    'item': (
        ('Medikit', 20),
        ('Stimpack', 20),
        ('HealthBonus', 20),
        ('GreenArmor', 20),
        ('BlueArmor', 20),
        ('ArmorBonus', 20),
        ('ShellBox', 20),
        ('RocketBox', 20),
        ('Backpack', 20),
        ('Chaingun', 20),
        ('RocketLauncher', 20),
        ('Berserk', 20),
    ),
}


def class_of(name: str, category: str) -> str | None:
    """Class of an object type, None for what is ignored.

    Args:
        name: Type name of the engine, such as `DoomImp`.
        category: The engine's category for it, such as `Monster`.
    """
    return _NAME_CLASS.get(name, _CATEGORY_CLASS.get(category))
