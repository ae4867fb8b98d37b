"""Training recipes, run from a checkout as `python -m training.<recipe>`; not installed by the wheel."""
