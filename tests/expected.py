"""What each conversion must lead to, written by hand from the layouts' definitions.

Nothing here is computed by the code under test.
"""

from __future__ import annotations

RERUN = "rerun_state_machine_state/shard_"
COMMON_KEY = "common_state/shard_0_1"

# Topology of a sample -> its (PP, TP) keys, each with the rank whose plan writes it
# (tp + TP * (cp + CP * (dp + DP * pp)) with cp = dp = 0), and its (WORLD,) keys.
GRIDS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "w1": ({RERUN + "0.0_1.1": 0}, {RERUN + "0_1": 0}),
    "tp2": (
        {RERUN + "0.0_1.2": 0, RERUN + "0.1_1.2": 1},
        {RERUN + "0_2": 0, RERUN + "1_2": 1},
    ),
    "dp2": ({RERUN + "0.0_1.1": 0}, {RERUN + "0_2": 0, RERUN + "1_2": 1}),
    "cp2": ({RERUN + "0.0_1.1": 0}, {RERUN + "0_2": 0, RERUN + "1_2": 1}),
    "dopt": ({RERUN + "0.0_1.1": 0}, {RERUN + "0_2": 0, RERUN + "1_2": 1}),
    "tp2pp2": (
        {
            RERUN + "0.0_2.2": 0,
            RERUN + "0.1_2.2": 1,
            RERUN + "1.0_2.2": 2,
            RERUN + "1.1_2.2": 3,
        },
        {RERUN + "0_4": 0, RERUN + "1_4": 1, RERUN + "2_4": 2, RERUN + "3_4": 3},
    ),
}

# (target, idle or disabled) -> (fields of the common entry or None, which grid or None).
STATES: dict[tuple[str, str], tuple[set[str] | None, str | None]] = {
    ("pre-rerun", "idle"): (None, None),
    ("pre-rerun", "disabled"): (None, None),
    ("sharded-rerun", "idle"): (None, "pp_tp"),
    ("sharded-rerun", "disabled"): (None, "pp_tp"),
    ("split-rerun", "idle"): ({"mode"}, "pp_tp"),
    ("split-rerun", "disabled"): ({"mode"}, "pp_tp"),
    ("none-emitting", "idle"): (None, None),
    ("none-emitting", "disabled"): (None, None),
    ("always-sentinel", "idle"): ({"mode", "state", "current_iteration"}, "world"),
    ("always-sentinel", "disabled"): (None, None),
    ("common-state", "idle"): ({"mode", "state", "current_iteration"}, "world"),
    ("common-state", "disabled"): (None, None),
}
FAULT = ({"mode", "state", "current_iteration"}, "world")

_BASE = {
    "rerun_requested",
    "checkpoint_requested",
    "restart_again_requested",
    "continue_requested",
    "error_injector_checkpoint",
    "failed_validation_call",
    "initial_result",
    "suspicious_node",
    "suspicious_device",
    "data_iterator_checkpoints",
}
# Target -> the fields of a payload.
PAYLOAD: dict[str, set[str]] = {
    "sharded-rerun": _BASE | {"mode", "state", "current_iteration", "last_loss"},
    "split-rerun": _BASE | {"state", "current_iteration", "large_value_counts", "max_values"},
    "always-sentinel": _BASE | {"large_value_counts", "max_values"},
    "common-state": _BASE | {"large_value_counts", "max_values"},
    "none-emitting": _BASE | {"large_value_counts", "max_values"},
}

# The payload of a fresh idle state, by field.
IDLE_VALUES = {
    "rerun_requested": False,
    "checkpoint_requested": False,
    "restart_again_requested": False,
    "continue_requested": False,
    "error_injector_checkpoint": {
        "error_injection_rate": 0,
        "error_injection_type": ("RerunDiagnostic", "transient_error"),
        "injected_error_type": None,
    },
    "failed_validation_call": None,
    "initial_result": None,
    "suspicious_node": None,
    "suspicious_device": None,
    "large_value_counts": {},
    "max_values": {},
    "last_loss": None,
}

KEEPS_FAULTS = ("none-emitting", "always-sentinel", "common-state")
NO_PLANS = ("0.9.0", "0.10.0")  # releases that keep no all_local_plans
