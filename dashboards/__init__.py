"""The Grafana dashboards, as Python. `python -m dashboards FOLDER` writes their JSON, see docs/monitoring.md.

A dashboard is a list of rows, a row is a list of panels, and a panel is one entry in fleet.py, job.py,
operator.py or capacity.py. To add a panel, add an entry with an unused id: grafana.py computes the positions.
"""
