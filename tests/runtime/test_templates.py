"""Chat templates: rendered as transformers does, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.model.catalog import TINY, text
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.quantize.texts import read_sequences
from nemotron_deploy.runtime.templates import (
    MAX_OUTPUT,
    MAX_TEMPLATE_BYTES,
    ChatTemplate,
    TemplateError,
)

TURNS = [
    {"role": "system", "content": "Be brief. <&> é"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
]


def rendered(folder: Path, template: str, **config: object) -> str:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)
    with ChatTemplate(folder) as found:
        return found.apply_chat_template(TURNS)


@pytest.mark.parametrize(
    "template",
    [
        (TINY / "chat_template.jinja").read_text(),
        "{% for m in messages %}{{ bos_token }}{{ m.role }} {{ m.content|trim }}\n{%endfor%}",
        "{% for m in messages %}\n {% if m.role == 'user' %}\n{{ m|tojson }}\n {%endif%}{%endfor%}",
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{%endif%}{{ m.role }}{%endfor%}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{%endfor%}"
        "{{ ns.n }}",
        "{% macro say(x) %}[{{ x }}]{% endmacro %}{{ say(messages[0].content) }}",
    ],
)  # fmt: skip
def test_the_same_as_transformers(tmp_path: Path, template: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    expected = tokenizer.apply_chat_template(TURNS, chat_template=template, tokenize=False)
    assert rendered(tmp_path, template, bos_token=tokenizer.bos_token) == expected


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.__init__.__globals__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
        ("{{ self.__init__.__globals__.__builtins__ }}", "SecurityError"),
        ("{{ raise_exception.__globals__.keys() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[0].update(role='x') }}", "SecurityError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ 'a' * 10**9 }}", "memory"),
        ("{{ 10 ** (10 ** 8) }}", "it took more than"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "it took more than",
        ),
        (
            "{% for a in range(99999) %}{{ messages[0].content * 9 }}{% endfor %}",
            f"more than {MAX_OUTPUT} characters",
        ),
        (" " * (MAX_TEMPLATE_BYTES + 1), f"longer than {MAX_TEMPLATE_BYTES} bytes"),
    ],
)
def test_what_a_template_may_not_do(tmp_path: Path, template: str, why: str) -> None:
    with pytest.raises(TemplateError, match="chat template") as refused:
        rendered(tmp_path, template)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_refused_conversation_does_not_end_the_renderer(tmp_path: Path) -> None:
    template = (
        "{% if messages[0].role != 'user' %}{{ 9 ** (messages | length * 9**8) }}{% endif %}good"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    with ChatTemplate(tmp_path) as found:
        with pytest.raises(TemplateError):
            found.apply_chat_template(TURNS)
        assert found.apply_chat_template(TURNS[1:]) == "good"


def test_a_checkpoint_without_one(tmp_path: Path) -> None:
    with (
        ChatTemplate(tmp_path) as found,
        pytest.raises(TemplateError, match="has no chat template; use `text` or `prompt`"),
    ):
        found.apply_chat_template(TURNS)


def test_the_older_place_of_a_template(tmp_path: Path) -> None:
    fields = {"chat_template": "{{ bos_token }}!", "bos_token": {"content": "<s>", "lstrip": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with ChatTemplate(tmp_path) as found:
        assert found.apply_chat_template(TURNS) == "<s>!"


def test_the_file_of_its_own_comes_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "new"}))
    with ChatTemplate(tmp_path) as template:
        assert template.apply_chat_template(TURNS) == "new"


@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f"}}]])
def test_named_templates_as_transformers_chooses_them(
    tmp_path: Path, tools: list[Any] | None
) -> None:
    from transformers import AutoTokenizer

    named = [
        {"name": "default", "template": "plain {{ tools is none }}"},
        {"name": "tool_use", "template": "{{ tools | tojson }}"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = {row["name"]: row["template"] for row in named}
    expected = tokenizer.apply_chat_template(TURNS, tools=tools, tokenize=False)
    with ChatTemplate(tmp_path) as template:
        assert template.apply_chat_template(TURNS, tools) == expected


def test_named_templates_without_a_default_are_none(tmp_path: Path) -> None:
    fields = {"chat_template": [{"name": "rag", "template": "x"}, {"name": 1}, "y"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with (
        ChatTemplate(tmp_path) as template,
        pytest.raises(TemplateError, match="has no chat template"),
    ):
        template.apply_chat_template(TURNS)


def test_a_text_is_rendered_no_further_than_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(
        "{% for a in range(99999) %}{{ messages[1].content * 9 }}{% endfor %}"
    )
    with ChatTemplate(tmp_path) as template:
        assert template.apply_chat_template(TURNS, longest=5) == "HiHiH"


def test_calibration_text_is_tokenized_as_transformers_does(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    file = tmp_path / "text.jsonl"
    rows: list[dict[str, object]] = [{"text": sample} for sample in text.documents(5, 8)]
    rows += [{"messages": TURNS}, {"prompt": "long " * 600}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, ours = read_sequences(Checkpoint.open(TINY), file)
    texts = [str(row["text"]) for row in rows[:8]]
    texts += [str(tokenizer.apply_chat_template(TURNS, tokenize=False)), "long " * 600]
    assert source == str(file)
    assert ours == [tokenizer(sample).input_ids[:512] for sample in texts]
