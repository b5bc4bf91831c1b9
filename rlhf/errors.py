"""The errors a user can cause. Each carries one sentence that says what, where, and the remedy.

The command line prints that sentence and exits with code 2; anything else is a bug of ours and
keeps its traceback. Every class takes the message as its only argument, so an error survives the
pickling between Ray processes.
"""


class UserError(Exception):
    """What the user asked for cannot be done; the message is complete without a traceback."""


class ConfigError(UserError):
    """A config file, key or override is wrong."""


class DataError(UserError):
    """A data file is missing, empty, malformed, or lacks a column."""


class ModelError(UserError):
    """A model or tokenizer directory does not serve the role it was given."""


class ResourceError(UserError):
    """The cluster does not have what the config asks for."""


class UnreachableError(ResourceError):
    """A process of the run does not answer. Where it was lost, that is the cause, and the run survives it."""


class RunError(UserError):
    """A run directory, artifact or checkpoint does not fit this command."""


class NumericError(UserError):
    """A reward, loss or gradient is not finite; the message says where the batch was saved."""


class StalePolicyError(UserError):
    """A rollout engine holds another policy version than the learner."""


class Terminated(Exception):
    """The run was asked to end by SIGTERM, and has kept its state; the message says where it goes on."""
