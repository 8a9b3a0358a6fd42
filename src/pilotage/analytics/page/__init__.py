"""The report as one HTML file that needs nothing else: no network, no other file, no program but a browser.

``document`` puts sections together, ``sections`` writes them, ``charts`` draws with ``svg``; all plots are there without
JavaScript, which adds what a pointer finds out (``script.js``). Colours are named in ``style.css``, once for light and once for
dark. Beside each plot is a table with its numbers.
"""
