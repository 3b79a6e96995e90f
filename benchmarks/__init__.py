"""How fast is jaxcert? Named cases, measured as ratios within one run, and committed baselines."""
