"""Stages advance a job: one small file each, the Job that is its next attempt. Pure."""
