"""What varies from skin to skin, by name: drawn by seed, and labels of the pictures made of it."""

from dataclasses import dataclass

import numpy as np

from topohead.synthesis.irises import IrisColors


@dataclass(frozen=True)
class SkinParameters:
    """One person's skin, hair marks, eyes and teeth.

    `melanin` and `haemoglobin` are optical depths (see `pigments`), `melanin` 0 to 1.7 over all
    people; `hair_color` is a linear albedo; `roughness` and `specular` (reflectance at normal
    incidence) are physical; `age` runs from 0 (18 years) to 1 (80). All else are strengths, 0 none
    to 1 strong, in the plain sense of their names.
    """

    melanin: float
    haemoglobin: float
    freckles: float
    moles: float
    stubble: float
    hair: float
    redness: float
    pores: float
    hair_color: tuple[float, float, float]
    iris: IrisColors
    carotene: float
    scatter: float
    mottling: float
    lip_blood: float
    lip_melanin: float
    lid_tone: float
    under_eye: float
    cheek_redness: float
    nose_redness: float
    chin_redness: float
    ear_redness: float
    veins: float
    age_spots: float
    blemishes: float
    scars: float
    brow_density: float
    brow_width: float
    lash_density: float
    age: float
    forehead_lines: float
    glabella_lines: float
    crows_feet: float
    nasolabial_folds: float
    marionette_lines: float
    under_eye_lines: float
    lip_lines: float
    neck_lines: float
    pore_size: float
    nose_pores: float
    grain: float
    oiliness: float
    roughness: float
    specular: float
    sclera_yellow: float
    sclera_veins: float
    tooth_shade: float
    tooth_disorder: float


def random_skin(seed: int) -> SkinParameters:
    """A person's colours, marks and age, any complexion."""
    random = np.random.default_rng([seed, 31])
    melanin = float(0.10 + 1.5 * random.beta(0.9, 1.9))
    dark = min(melanin / 1.2, 1.0)
    brown, blond = np.array([0.035, 0.020, 0.012]), np.array([0.22, 0.13, 0.06])
    light = random.random() ** 2 * (1 - dark)
    red, green, blue = (brown + light * (blond - brown)).tolist()
    haemoglobin = float(random.uniform(0.30, 0.55))
    freckles = float(random.random() ** 2 * (1 - dark))
    moles = float(random.uniform(0.2, 1.0))
    stubble = float(random.uniform(0.2, 0.9) * (random.random() < 0.5))
    hair = float(random.uniform(0.55, 0.95))
    redness = float(random.uniform(0.3, 1.0))
    pores = float(random.uniform(0.5, 1.0))
    iris = IrisColors.random(random, dark)
    # a second stream: what was drawn before these were thought of stays as it was
    more = np.random.default_rng([seed, 33])
    age = float(more.beta(1.2, 1.8))

    def strength(low: float = 0.0, high: float = 1.0) -> float:
        return float(more.uniform(low, high))

    def with_age(spread: float = 0.35) -> float:
        """Grows with age, sooner in some."""
        return float(np.clip(age**1.3 + spread * more.normal() * (0.3 + age), 0, 1))

    return SkinParameters(
        melanin=melanin,
        haemoglobin=haemoglobin,
        freckles=freckles,
        moles=moles,
        stubble=stubble,
        hair=hair,
        redness=redness,
        pores=pores,
        hair_color=(red, green, blue),
        iris=iris.varied(more),
        carotene=strength(),
        scatter=strength(),
        mottling=strength(0.3, 1.0),
        lip_blood=strength(0.3, 1.0),
        lip_melanin=strength(0.0, 0.6) + 0.4 * dark,
        lid_tone=strength(0.2, 0.8) + 0.2 * dark,
        under_eye=strength() ** 1.5,
        cheek_redness=strength(),
        nose_redness=strength(),
        chin_redness=strength(),
        ear_redness=strength(0.2, 1.0),
        veins=strength() ** 2,
        age_spots=with_age() * (1 - 0.6 * dark),
        blemishes=strength() ** 3 * (1 - 0.7 * age),
        scars=strength() ** 4,
        brow_density=strength(0.35, 1.0),
        brow_width=strength(),
        lash_density=strength(0.4, 1.0),
        age=age,
        forehead_lines=with_age(),
        glabella_lines=with_age(),
        crows_feet=with_age(),
        nasolabial_folds=with_age(0.25),
        marionette_lines=with_age(),
        under_eye_lines=with_age(),
        lip_lines=with_age(0.25),
        neck_lines=with_age(),
        pore_size=strength(),
        nose_pores=strength(0.3, 1.0),
        grain=strength(0.3, 1.0),
        oiliness=strength(),
        roughness=strength(0.44, 0.56),
        specular=strength(0.024, 0.034),
        sclera_yellow=0.6 * age * strength() + 0.3 * strength() ** 2,
        sclera_veins=strength() ** 2,
        tooth_shade=float(np.clip(0.7 * age * strength() + 0.5 * strength(), 0, 1)),
        tooth_disorder=strength() ** 2,
    )
