"""A pytest fixture for people who keep their renders beside their tests; installed with the package.

It imports nothing of the renderer before it is used: pytest loads it in every project of the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def tilehires_regress(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """`tilehires_regress("suite.toml", "case")`: render one case (or all) and fail the test as CI would.

    The suite's path is relative to the test's file. `any_environment=True` takes another environment's baseline where
    this one has none. A missing baseline fails, too. Pictures of a failure are left in the test's tmp_path.
    """

    def check(suite: str | Path, case: str | None = None, *, any_environment: bool = False) -> None:
        from tilehires.regress import guard, results
        from tilehires.regress.suite import load

        loaded = load(request.path.parent / suite)
        made: list[Any] = guard.check(loaded, loaded.only(case), any_environment=any_environment)
        bad = [result for result in made if result.status != "pass"]
        if bad:
            page = results.write(tmp_path / "regress", loaded.path.stem, made)
            pytest.fail("\n".join([*(result.line() for result in bad), f"See {page}"]), pytrace=False)

    return check
