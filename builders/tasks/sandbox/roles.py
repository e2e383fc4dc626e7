"""The two programs of a run: `candidate` serves calls of the model's function, `judge` tests it.

Runs inside the jail, from its text, behind that of wire.py.
"""

from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # the text of wire.py stands above
    from builders.tasks.sandbox.wire import decode, encode, exception, read, write


def candidate(source: str, entry_point: str, calls: BinaryIO, results: BinaryIO) -> None:
    """Define the function, then answer calls until the judge goes away."""
    failure: BaseException | None = None
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(source, "program.py", "exec"), namespace)  # noqa: S102
        function = namespace[entry_point]
    except BaseException as error:
        failure = error
    while True:
        try:
            arguments = decode(read(calls))
        except EOFError:
            return
        try:
            if failure is not None:
                raise failure
            answer = {"value": encode(function(*arguments["args"], **arguments["kwargs"]))}
        except BaseException as error:
            answer = {"error": [type(error).__name__, str(error)[:1000]]}
        write(results, answer)


def judge(test: str, entry_point: str, calls: BinaryIO, results: BinaryIO) -> str:
    """Run the data set's tests on the candidate; returns what is wrong, or nothing."""

    def proxy(*args: Any, **kwargs: Any) -> Any:
        write(calls, encode({"args": list(args), "kwargs": kwargs}))
        answer = read(results)
        if "error" in answer:
            name, text = answer["error"]
            raise exception(str(name), str(text))
        return decode(answer["value"])

    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(test, "test.py", "exec"), namespace)  # noqa: S102
        namespace[entry_point] = proxy  # some tests call it by its name
        namespace["check"](proxy)
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]:.300}".removesuffix(": ")
    return ""
