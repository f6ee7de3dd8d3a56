"""How `--help` is laid out. Apart from the rest, since it imports jsonargparse."""

import textwrap

from jsonargparse import DefaultHelpFormatter


class HelpFormatter(DefaultHelpFormatter):
    """Keep the line breaks of a description, whose example is meant to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(text, indent)
