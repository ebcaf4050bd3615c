"""Measure retrievers and show it: tasks give records, `report` turns records into tables, figures and one HTML page."""
