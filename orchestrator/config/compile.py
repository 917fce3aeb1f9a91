"""From the files of a configuration directory to one configuration."""

import re
from collections.abc import Mapping

from orchestrator.config.configuration import Configuration
from orchestrator.config.document import Document, read_document
from orchestrator.config.findings import Findings
from orchestrator.config.platform import Platform, read_platform
from orchestrator.config.teams import read_teams
from orchestrator.contract.operator import (
    MAX_CONFIGURATION_BYTES,
    MAX_CONFIGURATION_FILE_BYTES,
    MAX_CONFIGURATION_FILES,
)
from orchestrator.contract.vip import VipMode

PLATFORM = "platform.yaml"
_YAML = (".yaml", ".yml")
_TEAM_FILE = re.compile(r"^teams/([^/]+)/(?:.+/)?[^/]+\.ya?ml$")
_TEAM_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


def load_configuration(files: Mapping[str, str]) -> Configuration:
    """`files`: relative path → text, with `/`; YAML files and the files that they name.

    Pure: the same files give the same configuration, byte for byte. Raises ConfigurationRefused with all findings.
    """
    findings = Findings()
    _check_sizes(files, findings)
    findings.raise_if_any()
    platform = _read_platform(files, findings)
    teams = read_teams(
        _team_documents(files, findings),
        files,
        plaintext=any(vip.mode is VipMode.TERMINATE and not vip.tls for vip in platform.vips),
        findings=findings,
    )
    findings.raise_if_any()
    return Configuration(
        sites=tuple(sorted(platform.sites, key=lambda site: site.name)),
        nodes=tuple(sorted(platform.nodes, key=lambda node: node.name)),
        pools=tuple(sorted(platform.pools, key=lambda pool: pool.name)),
        vips=tuple(sorted(platform.vips, key=lambda vip: vip.name)),
        hosts=tuple(sorted(teams.hosts, key=lambda entry: entry.host.name)),
        certificates=tuple(sorted(teams.certificates, key=lambda each: (each.hosts, each.kind or ""))),
        backends=tuple(sorted(teams.backends, key=lambda entry: entry.backend.name)),
        rows=platform.forwarding.rows,
        owners_per_row=platform.forwarding.owners_per_row,
        spread_s=platform.drain.spread_s,
        uncounted_s=platform.drain.uncounted_s,
        ticket_key_s=platform.tls.ticket_keys.rotate_s,
        older_ticket_keys=platform.tls.ticket_keys.older,
    )


def _check_sizes(files: Mapping[str, str], findings: Findings) -> None:
    if len(files) > MAX_CONFIGURATION_FILES:
        findings.add("too_large", "", f"{len(files)} files, and {MAX_CONFIGURATION_FILES} are the most", "join files")
        return
    total = 0
    for path, text in files.items():
        size = len(text.encode(errors="surrogatepass"))
        total += size
        if size > MAX_CONFIGURATION_FILE_BYTES:
            findings.add(
                "too_large", path, f"{size} bytes, and {MAX_CONFIGURATION_FILE_BYTES} are the most", "split it"
            )
    if total > MAX_CONFIGURATION_BYTES:
        findings.add("too_large", "", f"{total} bytes in all; {MAX_CONFIGURATION_BYTES} are the most", "remove files")


def _read_platform(files: Mapping[str, str], findings: Findings) -> Platform:
    if PLATFORM not in files:
        findings.add("file_missing", PLATFORM, f"there is no {PLATFORM}", "add one with `nodes`, `pools` and `vips`")
        return Platform()
    document = read_document(PLATFORM, files[PLATFORM], findings)
    return Platform() if document is None else read_platform(document, files, findings)


def _team_documents(files: Mapping[str, str], findings: Findings) -> tuple[tuple[str, Document], ...]:
    documents = []
    for path in sorted(files):
        if path == PLATFORM or not path.endswith(_YAML):
            continue
        found = _TEAM_FILE.match(path)
        if found is None:
            findings.add(
                "unknown_file",
                path,
                "this file is neither platform.yaml nor in a team's folder",
                "move it to teams/<team>/, or rename it if it is not configuration",
            )
        elif _TEAM_NAME.match(found[1]) is None:
            findings.add(
                "invalid_name", path, f"{found[1][:80]!r} is not a team's name", "lower case letters, digits, hyphens"
            )
        else:
            document = read_document(path, files[path], findings)
            if document is not None:
                documents.append((found[1], document))
    return tuple(documents)
