"""Datasets by name: one file per dataset, each giving the three tables and the photos. See `base`."""
