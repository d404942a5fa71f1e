"""PURE. How panels show the states of FineTuneJobs."""

from finetune_operator.names import State

STATE_CODES = {state: code for code, state in enumerate(State)}
"""A number for each state, because panels draw numbers."""
STATE_COLORS: dict[str, str] = {
    State.PENDING: "text",
    State.PREPARING: "light-blue",
    State.TRAINING: "blue",
    State.PUBLISHING: "purple",
    State.WAITING: "yellow",
    State.SUSPENDED: "text",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.GATE_FAILED: "orange",
}
STATE_VALUES = {float(code): (str(state), STATE_COLORS[state]) for state, code in STATE_CODES.items()}
"""Name and colour of each number of STATE_CODES."""
