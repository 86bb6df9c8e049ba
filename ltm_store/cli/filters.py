"""The filters as options, for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypedDict, get_type_hints

import typer

from ltm_store.cli.frame import JsonFilter, When

Several = list[str] | None


class _Options(TypedDict):
    phrases: Annotated[Several, typer.Option("--phrase", help="Must be in it (repeat it).")]
    exclude: Annotated[Several, typer.Option(help="Must not be in it (repeat it).")]
    tags: Annotated[Several, typer.Option("--tag", help="All of these tags (repeat it).")]
    tags_any: Annotated[Several, typer.Option("--any-tag", help="One of these (repeat it).")]
    tags_none: Annotated[Several, typer.Option("--without-tag", help="Not this (repeat it).")]
    memory_type: Annotated[Several, typer.Option("--type", help="The memory type, or any of some.")]
    category: Annotated[Several, typer.Option(help="The category, or any of some.")]
    source_type: Annotated[Several, typer.Option(help="The kind of source, or any of some.")]
    source_id: Annotated[Several, typer.Option("--source", help="The source's id, or any of some.")]
    created_by: Annotated[Several, typer.Option(help="Who wrote them, or any of some.")]
    namespace: Annotated[Several, typer.Option(help="One of these (repeat it); '' is none.")]
    namespace_prefix: Annotated[str | None, typer.Option(help="This namespace and those below it.")]
    key_prefix: Annotated[str | None, typer.Option(help="What the key begins with.")]
    context: JsonFilter
    metadata: JsonFilter
    min_importance: Annotated[int | None, typer.Option(help="Of the score as written.")]
    min_confidence: Annotated[float | None, typer.Option(help="0 to 1.")]
    created_after: When
    created_before: When
    modified_after: When
    accessed_after: When
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")]


_NAMES = {"context": "context_data", "archived": "include_archived"}


def filtered(*, without: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each filter, but for one, in place of its `filters`."""
    options = get_type_hints(_Options, include_extras=True)
    options.pop(without, None)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(**arguments: Any) -> None:
            given = {_NAMES.get(name, name): arguments.pop(name) for name in options}
            filters = {name: value for name, value in given.items() if value}
            function(filters=filters, **arguments)

        shown: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            shown += _parameters(options) if parameter.name == "filters" else [parameter]
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return run

    return register


def _parameters(options: dict[str, Any]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=False if name == "archived" else None,
            annotation=annotation,
        )
        for name, annotation in options.items()
    ]
