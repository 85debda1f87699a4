"""Pages that are generated are what their scripts would write now."""

from __future__ import annotations

import write_api_page
import write_columns_page
import write_metrics_page


def test_metrics_and_maps() -> None:
    assert write_metrics_page.PAGE.read_text(encoding="utf-8") == write_metrics_page.page()


def test_api() -> None:
    assert write_api_page.PAGE.read_text(encoding="utf-8") == write_api_page.page()


def test_columns() -> None:
    assert write_columns_page.PAGE.read_text(encoding="utf-8") == write_columns_page.page()
