"""Evaluation: benchmarks of EleutherAI's lm-eval, sent to an OpenAI endpoint.

lm-eval has the benchmarks, their prompts and their scores (`harness.py`, `requirements.py`). What
it asks is sent and kept here, answer by answer, so that an interrupted run resumes
(`served_model.py`, `endpoint.py`, `journal.py`). The report compares scores with published ones
(`published.py`, `intervals.py`, `report.py`, `card.py`).
"""
