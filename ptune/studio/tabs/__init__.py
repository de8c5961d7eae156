"""The tabs of the studio, a class each. A tab renders itself into the page that is being built."""
