"""The pytest plugin: `pytest --genkit torch-genkit-NAME` checks an installed plugin.

pytest imports this module in every session of an environment with genkit. So it imports only
pytest at its top, and does nothing without the option.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from genkit.registry.catalogue import Registry


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("genkit").addoption(
        "--genkit",
        action="append",
        metavar="PLUGIN",
        help="check an installed plugin (a distribution or an entry point)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("genkit"):
        config.addinivalue_line("markers", "genkit: a check of a plugin that --genkit names")


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the tests
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    if session.config.getoption("genkit"):
        items += session.genitems(Checks.from_parent(session, name="genkit", nodeid="genkit"))


class Checks(pytest.Collector):
    """The checks of all plugins that were named."""

    def collect(self) -> Iterator[pytest.Item]:
        from genkit.errors import GenkitError
        from genkit.registry.catalogue import load_registry
        from genkit.registry.checks import checks_of, find_plugins

        try:
            registry = load_registry(strict=False)
            given = self.config.getoption("genkit")
            named = [plugin for name in given for plugin in find_plugins(registry, name)]
            tables = _read_tables(self.config, registry)
        except GenkitError as error:
            raise self.CollectError(f"--genkit: {error}") from None
        for plugin in {id(plugin): plugin for plugin in named}.values():
            for check, name in checks_of(registry, plugin):
                item = Check.from_parent(self, name=f"{check}[{name}]")
                item.call = (check, name, tables.get(check, {}).get(name, {}))
                item.add_marker("genkit")
                yield item


class Check(pytest.Item):
    """The call of a function of `genkit.testing`; it fails with the contract that is broken."""

    call: tuple[str, str, dict[str, Any]]  # function, subject, keyword arguments

    def runtest(self) -> None:
        from inspect import signature

        from genkit import testing
        from genkit.contracts.contract import frames_of_plugin
        from genkit.errors import GenkitError

        name, subject, arguments = self.call
        check = getattr(testing, name)
        if unknown := [word for word in arguments if word not in signature(check).parameters]:
            pytest.fail(f"{name}() takes no {unknown[0]!r}: see pyproject.toml", pytrace=False)
        try:
            check(subject, **arguments)
        except (testing.PromiseBroken, GenkitError) as error:
            message = f"{error}\n{frames_of_plugin(error)}".strip()
            raise pytest.fail.Exception(message, pytrace=False) from None

    def reportinfo(self) -> tuple[str, None, str]:
        return "genkit", None, self.name


def _read_tables(config: pytest.Config, registry: Registry) -> dict[str, dict[str, Any]]:
    """Arguments by check and name, from the tables [tool.genkit.CHECK.NAME] of pyproject.toml;
    UsageError for a table of something that is not installed."""
    import tomllib

    from genkit.config.validation import suggest
    from genkit.errors import UsageError
    from genkit.registry.checks import CHECKS

    path = config.rootpath / "pyproject.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tables: dict[str, dict[str, Any]] = content.get("tool", {}).get("genkit", {})
    for check, names in tables.items():
        if check not in CHECKS:
            raise UsageError(f"{path}: there is no [tool.genkit.{check}].{suggest(check, CHECKS)}")
        for name in names if not registry.plugins.failed else []:
            getattr(registry, CHECKS[check]).find(name)
    return tables
