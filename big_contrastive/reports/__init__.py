"""Reports of runs: what their workdirs hold, on one HTML page."""
