"""A template is a stranger's program: it cannot reach Python, run for ever, or fill the memory. And it renders as before."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ptune.codecs import template_bounds
from ptune.codecs.template import ChatTemplate
from ptune.errors import TemplateError

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ahoy"}]
WITHOUT_END = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "loops with text": "{% for a in range(99999) %}{% for b in range(99999) %}" + "x" * 1000 + "{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "block": "{% block a %}{% if true %}{{ self.a() }}{{ self.a() }}{% endif %}{% endblock %}",
    "recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "caller": "{% macro f(n) %}{% if n %}{% call f(n - 1) %}x{% endcall %}{% call f(n - 1) %}x{% endcall %}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "lipsum": "{{ lipsum(n=10 ** 9) }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "powers": "{% set n = namespace(x=3) %}{% for a in range(99) %}{% set n.x = n.x ** 9 %}{% endfor %}",
    "products": "{% set n = namespace(x=3) %}{% for a in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x > 1 }}",
}  # fmt: skip
DOUBLING = "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = EXPR %}{% endfor %}"
TOO_LARGE = {
    "text times number": "{{ 'x' * 10 ** 10 }}",
    "number times text": "{{ 10 ** 10 * 'x' }}",
    "list times number": "{{ ([0] * 10 ** 10)|length }}",
    "list of texts": "{% set x = 'x' * 10 ** 7 %}{{ [x] * 10 ** 5 }}",
    "list of texts, joined": "{% set x = 'x' * 10 ** 7 %}{{ ([x] * 10 ** 5)|join }}",
    "text joined": "{% set x = 'x' * 10 ** 7 %}{{ ','.join([x] * 1000) }}",
    "separator": "{{ ('x' * 10 ** 7).join('y' * 10 ** 6) }}",
    "separator of a filter": "{{ ('y' * 10 ** 6)|join('x' * 10 ** 7) }}",
    "plus": DOUBLING.replace("EXPR", "n.x + n.x"),
    "tilde": DOUBLING.replace("EXPR", "n.x ~ n.x"),
    "replace": DOUBLING.replace("EXPR", "n.x.replace('a', n.x)"),
    "replace nothing": "{{ ('x' * 10 ** 6).replace('', 'y' * 10 ** 6) }}",
    "replace filter": "{{ ('x' * 10 ** 6)|replace('x', 'y' * 10 ** 6) }}",
    "set block": "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "ljust": "{{ 'x'.ljust(10 ** 10) }}",
    "rjust": "{{ 'x'.rjust(10 ** 10) }}",
    "center": "{{ 'x'.center(10 ** 10) }}",
    "zfill": "{{ 'x'.zfill(10 ** 10) }}",
    "tabs": "{{ ('\t' * 1000).expandtabs(10 ** 8) }}",
    "center filter": "{{ 'x'|center(10 ** 10) }}",
    "indent": "{{ 'x\ny'|indent(10 ** 10) }}",
    "indent of a text": "{{ 'x\ny'|indent('z' * 10 ** 7, true)|indent('z' * 10 ** 7, true) }}",
    "json": "{{ [[1]]|tojson(indent=10 ** 10) }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "format again": "{{ ('{0}' * 10 ** 5).format('x' * 10 ** 7) }}",
    "format map": "{{ '{a:>9999999999}'.format_map({'a': 1}) }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (9999999999, 1) }}",
    "percent again": "{{ ('%s' * 2) % ('x' * 10 ** 7, 'x' * 10 ** 7) }}",
    "percent filter": "{{ '%9999999999d'|format(1) }}",
    "indent, known when compiled": "{{ 'x\ny'|indent(9999999999) }}",
    "percent, known when compiled": "{{ '%9999999999d'|format(1) }}",
    "center, known when compiled": "{{ 'x'|center(9999999999) }}",
    "batch": "{{ [1]|batch(10 ** 10, 0)|list }}",
    "slice": "{{ [1]|slice(10 ** 10)|list }}",
    "wrap": "{{ 'x'|wordwrap(1, wrapstring='y' * 10 ** 9) }}",
    "output": "{% for a in range(9999) %}{{ 'x' * 10 ** 7 }}{% endfor %}",
    "range": "{{ range(10 ** 10)|list|length }}",
}
OUT_OF_THE_SANDBOX = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ (messages|attr('__class__')).__name__ }}",
    "{{ ''['__class__'] }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0[0].__class__}'.format([1]) }}",
    "{{ ''|format.__globals__ }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ strftime_now.__closure__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ namespace.__init__ }}",
    "{% set x = messages.append(1) %}{{ x }}",
    "{% set x = messages[0].update({'role': 'x'}) %}{{ x }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
    "{{ dict.__base__ }}",
    "{{ [].append.__self__.__class__ }}",
    "{{ loop.__class__ }}",
    "{{ (generator for generator in ()).gi_frame }}",
    "{{ caller.__globals__ }}",
]  # fmt: skip


@pytest.fixture
def _little_memory():
    """What would fill the memory fails the test instead of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (3 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("name", WITHOUT_END)
def test_a_template_that_would_run_for_ever_is_stopped(name, monkeypatch):
    monkeypatch.setattr(template_bounds, "LIMIT_S", 0.3)
    with pytest.raises(TemplateError, match="chat template"):
        ChatTemplate(WITHOUT_END[name]).render(MESSAGES)


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_template_that_would_fill_the_memory_is_stopped(name):
    with pytest.raises(TemplateError) as raised:
        ChatTemplate(TOO_LARGE[name]).render(MESSAGES)
    assert "MemoryError" not in str(raised.value)


@pytest.mark.parametrize("evil", OUT_OF_THE_SANDBOX)
def test_a_template_reaches_nothing_of_python(evil):
    messages = [dict(message) for message in MESSAGES]
    try:
        written = ChatTemplate(evil).render(messages)
    except TemplateError:
        written = ""
    assert messages == MESSAGES
    for trace in ("class", "<function", "<module", "module", "root:", "0x", "object at"):
        assert trace not in written, written


def test_a_template_nested_too_deeply_is_refused():
    for source in ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% if 1 %}" * 3000 + "{% endif %}" * 3000):
        with pytest.raises(TemplateError):
            ChatTemplate(source)


def test_an_error_of_syntax_still_names_its_line():
    with pytest.raises(TemplateError, match="line 2"):
        ChatTemplate("\n{{ x|no_such_filter }}")


ORDINARY = [
    "{% for m in messages %}{{ loop.index ~ ': ' ~ m.role + '=' + m['content'] }}\n{% else %}none{% endfor %}",
    "{% macro turn(m) %}<{{ m.role }}>{{ caller() }}{% endmacro %}"
    "{% for m in messages %}{% call turn(m) %}{{ m.content|trim }}{% endcall %}{% endfor %}",
    "{{ messages|map(attribute='role')|join(', ') }} {{ messages|tojson(indent=2) }} {{ 'a\nb'|indent(3, true) }}",
    "{{ '%s-%03d' % ('a', 7) }} {{ '{:>5}|{x}'.format('b', x=[1]) }} {{ '%s' % 'y' }} {{ 'z' * 3 }} {{ 2 ** 10 * 3 }}",
    "{% set ns = namespace(text='', seen=[]) %}{% for m in messages %}{% set ns.text = ns.text + m.content %}"
    "{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.text }}{{ ns.seen }}{{ ns.seen|list|length }}",
    "{% set x %}{{ messages[0].content }}!{% endset %}{{ x|upper|replace('H', 'J') }}{{ x.replace('l', 'LL', 1) }}",
    "{{ ','.join(['a', 'b']) }}{{ 'a,b'.split(',') }}{{ ['a']|string ~ none ~ undefined_thing ~ 1.5 }}{{ 7 % 4 }}",
    "{% block b %}{{ 5 }}{% endblock %}{{ 'x'.ljust(3) ~ '|' }}{{ 'a\tb'.expandtabs(2) }}{{ {'a': 1}|items|list }}",
    "{% for a in [[1, [2]], []] recursive %}{{ a if a is number else loop(a) }};{% endfor %}",
    "{{ messages[::-1]|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|length > 1 and 'many' }}",
    "{{ [1, 2]|join }}{{ 'abc'|join('-') }}{{ {'a': 1, 'b': 2}|join('+') }}{{ '%s:%s'|format('a', 'b') }}",
    "{{ [1, 2, 3]|batch(2, 0)|list }}{{ [1, 2, 3]|slice(2)|map('list')|list }}{{ 'x'|center(5) }}{{ [1, 2]|sum }}"
    "{{ [[1], [2]]|sum(start=[]) }}{{ 'a b c'|wordwrap(2) }}{{ {'a': 1}|xmlattr }}{{ [{'n': 1}]|sum(attribute='n') }}",
    "{{ cycler('a', 'b').next() }}{{ joiner(', ')() }}{{ dict(a=1) }}{{ range(3)|list }}",
]  # fmt: skip


@pytest.mark.parametrize("ordinary", ORDINARY)
def test_what_stays_within_the_bounds_renders_as_jinja_alone_does(ordinary):
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    plain.filters["tojson"] = lambda value, indent: json.dumps(value, indent=indent)
    expected = plain.from_string(ordinary).render(messages=MESSAGES)
    assert ChatTemplate(ordinary).render(MESSAGES) == expected


def test_long_conversations_are_within_the_bounds():
    """As many messages as the server takes, and as many characters, with a template that adds them up."""
    source = "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = m.role ~ ': ' ~ m.content %}{{ n.t }}{% endfor %}"
    messages = [{"role": "user", "content": "x" * 1000}] * 4096
    assert len(ChatTemplate(source).render(messages)) == 4096 * 1006


def test_the_limit_of_time_is_each_renderings_own(monkeypatch):
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    monkeypatch.setattr(
        template_bounds, "time", type("Clock", (), {"monotonic": staticmethod(iter(range(10**6)).__next__)})
    )
    for _ in range(100):
        assert template.render(MESSAGES) == "helloahoy"
