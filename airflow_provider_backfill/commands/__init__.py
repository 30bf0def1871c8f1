"""One command, one file: the only place where core meets disk and server."""
