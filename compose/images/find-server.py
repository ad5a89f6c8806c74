"""find-server.py SPECIFIER [SCRIPT]: prints the path of the command of an installed PyPI package."""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

specifier, wanted = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
name = re.match(r"[A-Za-z0-9._-]+", specifier)
if name is None:
    sys.exit(f"{specifier} does not name a package.")
try:
    points = distribution(name.group()).entry_points
except PackageNotFoundError:
    sys.exit(f"pip installed no package called {name.group()}.")
scripts = [point.name for point in points if point.group == "console_scripts"]
if wanted and wanted not in scripts:
    sys.exit(f"{name.group()} has no command {wanted}; it has: {', '.join(scripts) or 'none'}.")
if not scripts:
    sys.exit(f"{name.group()} has no command, so there is no MCP server to run.")
same = [script for script in scripts if script == name.group()]
print(Path(sys.prefix) / "bin" / (wanted or (same or scripts)[0]))
