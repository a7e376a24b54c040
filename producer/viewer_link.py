"""Where a link to an image or a study leads: a viewer's address by a template, else Orthanc's own explorer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

from backlog.errors import UsageError
from backlog.pacs.address import is_orthanc, without_password

#: What a viewer's address may hold: columns of the ledger's items.
PLACEHOLDERS: Final = ("study_instance_uid", "sop_instance_uid", "instance")

#: Orthanc's own explorer.
_EXPLORER: Final = "/app/explorer.html#instance?uuid={instance}"


def check_viewer(template: str) -> None:
    """Refuse an address of a viewer that leads nowhere.

    Raises
    ------
    UsageError
        It is no http address, has an unknown placeholder, or none.
    """
    if not template:
        return
    held = re.findall(r"\{([^}]*)\}", template)
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    if not template.startswith(("http://", "https://")):
        raise UsageError(f"{template}: no address of a viewer (http://… or https://…)")
    if not held or not set(held) <= set(PLACEHOLDERS):
        raise UsageError(f"{template}: a viewer's address needs one of {known}, and no other")


class Linked(Protocol):
    """What a link may lead to: a row of the ledger with the columns of :data:`PLACEHOLDERS`."""

    @property
    def study_instance_uid(self) -> str:
        """Of the study."""

    @property
    def sop_instance_uid(self) -> str:
        """Of the image."""

    @property
    def instance(self) -> str | None:
        """The PACS's id."""


@dataclass(frozen=True)
class ViewerLink:
    """Gives the addresses of links.

    Parameters
    ----------
    template
        An address with some of :data:`PLACEHOLDERS` in braces; empty where there is nothing to lead to.
    """

    template: str

    @classmethod
    def of(cls, template: str, pacs: str, published: str = "") -> ViewerLink:
        """Build from what is known.

        Parameters
        ----------
        template
            A viewer's address, of the command or the settings; empty for Orthanc's explorer.
        pacs
            Where the run found its PACS; a folder's images have no page.
        published
            Where a browser finds it, if that is elsewhere.

        Raises
        ------
        UsageError
            The template leads nowhere, or ``published`` is no address.
        """
        check_viewer(template)
        if published and not published.startswith(("http://", "https://")):
            raise UsageError(f"{published}: no address of an Orthanc (http://… or https://…)")
        if template or not is_orthanc(pacs):
            return cls(template)
        return cls(without_password(published or pacs).rstrip("/") + _EXPLORER)

    def to(self, image: Linked) -> str:
        """Return the address of an image or a study; empty where it lacks a value that the address needs."""
        found = self.template
        for name in PLACEHOLDERS:
            held = f"{{{name}}}"
            if held not in found:
                continue
            value = getattr(image, name)
            if not value:
                return ""
            found = found.replace(held, quote(str(value), safe=""))
        return found
