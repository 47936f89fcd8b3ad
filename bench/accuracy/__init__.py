"""How good the attribution is: an engine whose every joule is known, seen as the proxy sees one."""
