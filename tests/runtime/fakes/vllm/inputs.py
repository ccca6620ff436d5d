"""FAKE: vllm/inputs/engine.py."""


def tokens_input(prompt_token_ids, *, prompt=None, cache_salt=None):
    return {"type": "token", "prompt_token_ids": prompt_token_ids}
