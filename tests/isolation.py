"""Whose rows a statement can reach, read from its parse tree, scope by scope.

Every reference to a table must be bound to the user where it stands: in the WHERE, or in the ON of
a join, of its own SELECT, UPDATE or DELETE. What an outer query or a CTE says does not count.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pglast
from pglast import ast
from pglast.enums import A_Expr_Kind, BoolExprType, BoolTestType, JoinType, OnConflictAction

Column = tuple[str, str]
"""The alias of a FROM item, and the name of a column."""


@dataclass(frozen=True)
class Rule:
    """What binds a reference to a user."""

    is_user: Callable[[ast.Node], bool] = lambda node: False
    """Whether an expression is the user of the call."""

    is_list: bool = False
    """Whether users come from a list that drives the statement: unnest($1, ...), and equality to
    its column binds."""


def _is_first(node: object) -> bool:
    return isinstance(node, ast.ParamRef) and node.number == 1


OF_ONE_USER = Rule(is_user=_is_first)
OF_A_LIST = Rule(is_list=True)


@dataclass
class _Level:
    """One SELECT, UPDATE, DELETE or INSERT."""

    outer: frozenset[Column]
    tables: list[tuple[str, str]] = field(default_factory=list)  # by alias and name
    aliases: set[str] = field(default_factory=set)
    bound: set[Column] = field(default_factory=set)
    conditions: list[tuple[ast.Node, set[str]]] = field(default_factory=list)
    """What holds, and of the rows of which aliases."""

    @property
    def visible(self) -> frozenset[Column]:
        return frozenset({c for c in self.outer if c[0] not in self.aliases} | self.bound)


_READ_BEFORE = ("withClause", "fromClause", "usingClause", "relation", "selectStmt", "whereClause")
Output = list[tuple[str, bool]]
"""The columns that a query gives, and whether each is the user."""


class _Reader:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.unbound: list[str] = []
        self.references = 0

    # -- queries ---------------------------------------------------------------------------------

    def query(
        self, node: ast.Node, common: Mapping[str, Output], outer: frozenset[Column]
    ) -> Output:
        common = dict(common)
        for cte in node.withClause.ctes if node.withClause else ():
            if node.withClause.recursive:
                common[cte.ctename] = []  # to itself it promises nothing
            common[cte.ctename] = _renamed(
                self.query(cte.ctequery, common, outer), cte.aliascolnames
            )
        if isinstance(node, ast.SelectStmt) and node.larg:
            left, right = (self.query(side, common, outer) for side in (node.larg, node.rarg))
            self.expressions(node.sortClause, common, outer)
            return [(name, a and b) for (name, a), (_, b) in zip(left, right, strict=False)]
        level = _Level(outer)
        match node:
            case ast.SelectStmt():
                self.items(node.fromClause, common, level)
                given = node.targetList
            case ast.UpdateStmt() | ast.DeleteStmt():
                self.item(node.relation, common, level)
                sources = node.fromClause if isinstance(node, ast.UpdateStmt) else node.usingClause
                self.items(sources, common, level)
                given = _returned(node)
            case ast.InsertStmt():
                self.insert(node, common, level)
                given = _returned(node)
            case _:
                raise AssertionError(f"no query: {type(node).__name__}")
        if not isinstance(node, ast.InsertStmt):
            level.conditions += [(part, level.aliases) for part in _conjuncts(node.whereClause)]
        self.bind(level)
        for alias, table in level.tables:
            self.references += 1
            if (alias, "user_id") not in level.bound:
                self.unbound.append(f"{table} AS {alias}")
        if isinstance(node, ast.UpdateStmt):
            self.assignments(node.targetList, level)
        rest = [getattr(node, name) for name in node if name not in _READ_BEFORE]
        self.expressions([*rest, *(part for part, _ in level.conditions)], common, level.visible)
        return self.output(given, level)

    def output(self, targets: Iterable[ast.ResTarget] | None, level: _Level) -> Output:
        found: Output = []
        for target in targets or ():
            value = target.val
            if isinstance(value, ast.ColumnRef) and isinstance(value.fields[-1], ast.A_Star):
                alias = value.fields[0].sval if len(value.fields) > 1 else None
                found += [(c, True) for a, c in sorted(level.bound) if alias in (None, a)]
            else:
                column = _column(value)
                found.append((target.name or (column or ("", ""))[1], self.is_bound(value, level)))
        return found

    def is_bound(self, value: ast.Node, level: _Level) -> bool:
        return self.rule.is_user(value) or _column(value) in level.visible

    def insert(self, node: ast.InsertStmt, common: Mapping[str, Output], level: _Level) -> None:
        alias = _alias(node.relation)
        level.aliases.add(alias)
        level.tables.append((alias, node.relation.relname))
        names = [column.name for column in node.cols]
        source = node.selectStmt
        if source.valuesLists:
            given = [self.rule.is_user(value) for value in source.valuesLists[0]]
        else:
            given = [bound for _, bound in self.query(source, common, level.outer)]
        if "user_id" not in names or not given[names.index("user_id")]:
            self.unbound.append(f"a row for {node.relation.relname}")
        level.bound.add((alias, "user_id"))
        conflict = node.onConflictClause
        if conflict and conflict.action == OnConflictAction.ONCONFLICT_UPDATE:
            keys = [element.name for element in conflict.infer.indexElems]
            if "user_id" not in keys:
                self.unbound.append(f"a conflict of {node.relation.relname}")
            self.assignments(conflict.targetList, level)

    def assignments(self, targets: Iterable[ast.ResTarget], level: _Level) -> None:
        """No row is given to another user."""
        if any(t.name == "user_id" and not self.is_bound(t.val, level) for t in targets):
            self.unbound.append("SET user_id")

    # -- what stands in FROM -----------------------------------------------------------------------

    def items(
        self, nodes: Iterable[ast.Node] | None, common: Mapping[str, Output], level: _Level
    ) -> None:
        for node in nodes or ():
            self.item(node, common, level)

    def item(self, node: ast.Node, common: Mapping[str, Output], level: _Level) -> set[str]:
        """The aliases of an item."""
        match node:
            case ast.JoinExpr():
                left = self.item(node.larg, common, level)
                right = self.item(node.rarg, common, level)
                bind = {
                    JoinType.JOIN_INNER: left | right,
                    JoinType.JOIN_LEFT: right,
                    JoinType.JOIN_RIGHT: left,
                }.get(node.jointype, set())
                level.conditions += [(part, bind) for part in _conjuncts(node.quals)]
                return left | right
            case ast.RangeVar():
                alias = _alias(node)
                if node.relname in common:
                    self._bound(level, alias, common[node.relname], node.alias)
                elif not node.relname.startswith("pg_"):
                    level.tables.append((alias, node.relname))
            case ast.RangeSubselect():
                alias = node.alias.aliasname
                seen = level.visible if node.lateral else level.outer
                self._bound(level, alias, self.query(node.subquery, common, seen), node.alias)
            case ast.RangeFunction():
                alias = node.alias.aliasname
                self.expressions(node.functions, common, level.visible)
                call = node.functions[0][0]
                names = [name.sval for name in node.alias.colnames or ()]
                for name, value in zip(names, getattr(call, "args", None) or (), strict=False):
                    if self.rule.is_list and _is_first(_uncast(value)):
                        level.bound.add((alias, name))
            case _:
                raise AssertionError(f"no item of FROM: {type(node).__name__}")
        level.aliases.add(alias)
        return {alias}

    def _bound(self, level: _Level, alias: str, output: Output, names: ast.Alias | None) -> None:
        renamed = _renamed(output, names.colnames if names else None)
        level.bound |= {(alias, name) for name, bound in renamed if bound}

    # -- conditions --------------------------------------------------------------------------------

    def bind(self, level: _Level) -> None:
        pairs = [
            (*pair, aliases)
            for part, aliases in level.conditions
            for equal in _equalities(part)
            for pair in (equal, equal[::-1])
        ]
        before = -1
        while len(level.bound) != before:
            before = len(level.bound)
            for left, right, aliases in pairs:
                column = _column(left)
                if column is None or column[0] not in aliases:
                    continue
                by_list = self.rule.is_list and _column(right) in level.visible
                if self.rule.is_user(right) or by_list:
                    level.bound.add(column)

    def expressions(
        self, value: object, common: Mapping[str, Output], outer: frozenset[Column]
    ) -> None:
        """The subqueries of an expression."""
        for select in _subqueries(value):
            self.query(select, common, outer)


def _subqueries(value: object) -> Iterator[ast.Node]:
    if isinstance(value, ast.SelectStmt):
        yield value
    elif isinstance(value, ast.Node):
        for name in value:
            yield from _subqueries(getattr(value, name))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _subqueries(part)


def _returned(node: ast.Node) -> Iterable[ast.ResTarget]:
    return node.returningClause.exprs if node.returningClause else ()


def _alias(node: ast.RangeVar) -> str:
    return str(node.alias.aliasname if node.alias else node.relname)


def _uncast(node: object) -> object:
    return _uncast(node.arg) if isinstance(node, ast.TypeCast) else node


def _column(node: object) -> Column | None:
    """A column with its alias."""
    if isinstance(node, ast.ColumnRef) and len(node.fields) == 2:
        alias, name = node.fields
        if isinstance(name, ast.String):
            return str(alias.sval), str(name.sval)
    return None


def _renamed(output: Output, names: Iterable[ast.String] | None) -> Output:
    new = [name.sval for name in names or ()]
    return [(new[n] if n < len(new) else name, bound) for n, (name, bound) in enumerate(output)]


def _conjuncts(node: ast.Node | None) -> Iterator[ast.Node]:
    """The conditions that all hold."""
    if isinstance(node, ast.BoolExpr) and node.boolop == BoolExprType.AND_EXPR:
        for part in node.args:
            yield from _conjuncts(part)
    elif isinstance(node, ast.BooleanTest) and node.booltesttype == BoolTestType.IS_TRUE:
        yield from _conjuncts(node.arg)
    elif node is not None:
        yield node


def _equalities(node: ast.Node | None) -> Iterator[tuple[ast.Node, ast.Node]]:
    """What a condition says is equal; of rows, part by part."""
    if not isinstance(node, ast.A_Expr) or node.kind != A_Expr_Kind.AEXPR_OP:
        return
    if node.name[-1].sval == "=":
        left, right = node.lexpr, node.rexpr
        if isinstance(left, ast.RowExpr) and isinstance(right, ast.RowExpr):
            yield from zip(left.args, right.args, strict=True)
        else:
            yield left, right


def read(sql: str, rule: Rule) -> tuple[int, list[str]]:
    """How many references to tables a statement has, and which of them are bound to no user."""
    reader = _Reader(rule)
    for raw in pglast.parse_sql(sql):
        reader.query(raw.stmt, {}, frozenset())
    return reader.references, reader.unbound
