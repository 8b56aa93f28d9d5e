"""Every preset by name, and the plan of each."""

from experiments.plan import Plan
from experiments.presets import CPU, GPU, TOY, Preset
from experiments.real_plan import RealPlan
from experiments.real_presets import LEASE, REAL_CPU, REAL_TOY

PRESETS = {preset.name: preset for preset in (TOY, CPU, GPU, REAL_TOY, REAL_CPU, LEASE)}


def plan_of(preset: Preset) -> Plan:
    """Returns the plan of a preset."""
    return RealPlan(preset) if preset.plan == "real" else Plan(preset)
