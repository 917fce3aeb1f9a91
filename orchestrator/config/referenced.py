"""Files beside those of the configuration, which these name: certificates, keys, passwords."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from posixpath import normpath

from orchestrator.config.document import Place
from orchestrator.config.findings import Findings


def referenced_text(place: Place, reference: str, files: Mapping[str, str], findings: Findings) -> str | None:
    """Text of a file that is named relative to the document; None after a finding."""
    path = normpath(str(PurePosixPath(place.document.path).parent / reference))
    if reference.startswith("/") or path.startswith(".."):
        findings.add("path_outside", place, f"{reference} lies outside the directory", "keep the file inside it")
        return None
    if path not in files:
        findings.add("file_missing", place, f"there is no file {path}", "the path is relative to this file")
        return None
    return files[path]
