"""YAML only; this file lets Hydra find the folder inside an installed wheel."""
