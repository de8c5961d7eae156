"""One look for all that ptune draws: reports, plots, the chat page and the studio. Colours, fonts, tables and charts as CSS."""
