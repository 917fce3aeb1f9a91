"""What a drain is of: one node, or all L4 nodes of a site."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.cli.drain_words import seconds_taken
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.contract.operator import DrainRequest, DrainView


@dataclass(frozen=True, slots=True)
class DrainSubject:
    """A node by its name, or a site by its."""

    name: str
    is_site: bool = False

    def __str__(self) -> str:
        return f"site {self.name}" if self.is_site else self.name

    @property
    def arguments(self) -> str:
        """As on the command line."""
        return f"--site {self.name}" if self.is_site else self.name

    async def start(self, api: FleetApi, request: DrainRequest) -> tuple[DrainView, ...]:
        return await api.drain_site(self.name, request) if self.is_site else (await api.drain(self.name, request),)

    async def look(self, api: FleetApi) -> tuple[DrainView, ...]:
        return await api.site_drain_views(self.name) if self.is_site else (await api.drain_view(self.name),)

    async def cancel(self, api: FleetApi) -> tuple[DrainView, ...]:
        return await api.cancel_site_drain(self.name) if self.is_site else (await api.cancel_drain(self.name),)

    async def undrain(self, api: FleetApi) -> tuple[DrainView, ...]:
        return await api.undrain_site(self.name) if self.is_site else (await api.undrain(self.name),)

    def as_json(self, views: Iterable[DrainView]) -> dict[str, Any]:
        """The view of a node, or those of a site's; each with how long its drain took."""
        content = [view.model_dump(mode="json") | {"seconds": seconds_taken(view)} for view in views]
        return {"site": self.name, "nodes": content} if self.is_site else content[0]
