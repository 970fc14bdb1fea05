"""Why a call to the Hugging Face Hub failed, in one line that says what to do."""

from collections.abc import Iterator

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # of the HTTP library, whichever this version of huggingface_hub builds on
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# What calls to the Hub raise; BadRequestError and HFValidationError are ValueErrors
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def explain(error: BaseException) -> str:
    """One line on what went wrong and what to do, from what huggingface_hub or `datasets` raised."""
    for each in _causes(error):
        if isinstance(each, OfflineModeIsEnabled) or OfflineModeIsEnabled.__name__ in str(each):
            return "HF_HUB_OFFLINE is set, and it is not in the cache."
        if isinstance(each, LocalTokenNotFoundError):
            return f"it needs an account: {LOG_IN}."
        if isinstance(each, GatedRepoError):
            return f"access is given on request: ask for it on its page on the Hub, then {LOG_IN}."
        if isinstance(each, RevisionNotFoundError):
            return "it has no such revision."
        if isinstance(each, RepositoryNotFoundError):
            return f"there is no such repository that this account may see. Check its id; if it is private, {LOG_IN}."
        if isinstance(each, HfHubHTTPError):
            return _explain_status(each)
        if isinstance(each, (HTTPError, ConnectionError, TimeoutError)):
            return f"the Hub cannot be reached ({type(each).__name__}): check the connection and try again."
    if LocalEntryNotFoundError.__name__ in f"{type(error).__name__} {error}":  # `datasets` quotes it in its own
        return "the Hub cannot be reached, and it is not in the cache: check the connection and try again."
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_of_the_hub(error: BaseException) -> bool:
    """Whether the Hub or the way to it is why `error` was raised; transformers raises `OSError` for it, too."""
    kinds = (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)
    return any(isinstance(each, kinds) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _explain_status(error: HfHubHTTPError) -> str:
    status, said = error.response.status_code, (error.server_message or "").strip().rstrip(".")
    if status == 401:
        return f"the Hub does not know who you are: {LOG_IN}."
    if status == 403:
        return f"this account may not do that ({said or 'forbidden'}): use a token with the right to."
    if status in (409, 412):
        return "it was changed by somebody else meanwhile: try again."
    if status == 429:
        return "the Hub takes no more requests for now: wait some minutes and try again."
    if status >= 500:
        return f"the Hub has failed (status {status}): try again later."
    return f"the Hub refuses (status {status}): {said or next(iter(str(error).strip().splitlines()), '')}."
