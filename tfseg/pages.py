"""HTML pages from templates."""

from __future__ import annotations

from typing import Any


def render_page(package: str, template: str, **values: Any) -> str:
    """Fill in a template; everything is escaped, and a value that the template names must be there.

    Args:
        package: the package in whose ``templates`` folder it lies.
        template: its file name.
        values: what it names.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
