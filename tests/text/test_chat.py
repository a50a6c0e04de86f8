from __future__ import annotations

import json
from datetime import datetime

import pytest
from transformers import AutoTokenizer

from preble.errors import InvalidRequestError, ModelError
from preble.text import ChatTemplate, Tokenizer, chat, model_files

CHAT_ML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(calls=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {%- set ns.calls = ns.calls + 1 %}
            {{- '\\n<tool_call>\\n' + (call.function | tojson(indent=2)) + '\\n</tool_call>' + ns.calls | string }}
        {%- endfor %}
        {%- endgeneration %}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA_3 = """\
{{- bos_token }}
{% if not date_string is defined %}
    {% set date_string = strftime_now("%d %b %Y") %}
{% endif %}
{% for message in messages %}
    {% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}
        {{ raise_exception('Unknown role: ' + message['role']) }}
    {% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- (date_string ~ '\\n\\n') if loop.first }}
    {{- message['content'] | trim + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{% endif %}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Find <things> & 'quotes' — été 漢",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    }
]
PLAIN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is <b>this</b> & 漢字 🙂? \n"},
    {"role": "assistant", "content": "A test."},
    {"role": "user", "content": "Why?"},
]
CALLING = [
    {"role": "user", "content": "Look it up."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": {"query": "é <x>"}}}],
    },
    {"role": "tool", "content": '{"hits": 3}'},
]


@pytest.fixture
def folder(model_path, tmp_path):
    """A copy of the test model's tokenizer that tests may change."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_path / name).read_bytes())
    return tmp_path


def configure(folder, **settings):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize("generation_prompt", [True, False])
@pytest.mark.parametrize(
    ("template", "messages", "options"),
    [
        (None, PLAIN, {}),
        (None, CALLING, {}),
        (CHAT_ML, PLAIN, {}),
        (CHAT_ML, PLAIN, {"tools": TOOLS}),
        (CHAT_ML, CALLING, {"tools": TOOLS, "enable_thinking": False}),
        (LLAMA_3, PLAIN, {"date_string": "26 Jul 2024"}),
        (LLAMA_3, PLAIN, {}),
    ],
)
def test_renders_and_encodes_as_transformers_does(folder, template, messages, options, generation_prompt):
    if template is not None:
        configure(folder, chat_template=template)
    theirs = AutoTokenizer.from_pretrained(folder)
    options = options | {"add_generation_prompt": generation_prompt}
    text = ChatTemplate.load(folder).render(messages, **options)
    assert text == theirs.apply_chat_template(messages, tokenize=False, **options)
    ids = Tokenizer.load(folder).encode(text, add_special_tokens=False)
    assert ids == theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def test_the_test_models_roles_are_single_ids(model_path):
    text = ChatTemplate.load(model_path).render([{"role": "user", "content": "hi"}])
    ids = Tokenizer.load(model_path).encode(text, add_special_tokens=False)
    assert (ids[0], ids[-2], ids[-1]) == (3, 2, 4)


def test_a_folder_without_a_template_gives_none(tmp_path):
    assert ChatTemplate.load(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": null}')
    assert ChatTemplate.load(tmp_path) is None


def test_named_templates_are_chosen_as_transformers_does(folder):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools: {{ tools | length }}"}]
    configure(folder, chat_template=named)
    template, theirs = ChatTemplate.load(folder), AutoTokenizer.from_pretrained(folder)
    for tools in (None, [], TOOLS):
        expected = theirs.apply_chat_template(PLAIN, tools=tools or None, tokenize=False)
        assert template.render(PLAIN, tools=tools) == expected


AS_TEXT = [
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{% endfor %}",
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | tojson }}{% endfor %}",
]
AS_PARTS = [
    "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}({{ part.text }}){% endfor %}{% endfor %}",
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part['type'] == 'text' %}({{ part['text'] }}){% endif %}{% endfor %}"
    "{% endif %}{% endfor %}",
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "({{ part.text }}){% endfor %}{% endif %}{% endmacro %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ show(m.content) }}{% endfor %}",
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]}]


@pytest.mark.parametrize("source", AS_TEXT)
def test_text_parts_are_joined_where_the_template_wants_text(source):
    template = ChatTemplate({"default": source})
    assert template.render(PARTS) == template.render([{"role": "user", "content": "Hello\nthere"}])
    strange = [{"role": "user", "content": [{"text": "Hello"}, {"type": "refusal", "refusal": "No."}]}]
    assert template.render(strange) == template.render([{"role": "user", "content": "Hello\nNo."}])


@pytest.mark.parametrize("source", AS_PARTS)
def test_parts_stay_parts_where_the_template_takes_them(source):
    assert ChatTemplate({"default": source}).render(PARTS) == "<|user|>(Hello)(there)"


@pytest.mark.parametrize("source", [AS_TEXT[1], AS_PARTS[1]])
@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "audio_url", "video", "input_image", "file"])
def test_images_and_sound_are_refused_by_name(source, kind):
    messages = [*PARTS, {"role": "user", "content": [{"type": kind, kind: "x"}]}]
    with pytest.raises(InvalidRequestError, match=f"message 1 has a part of type {kind}") as caught:
        ChatTemplate({"default": source}).render(messages)
    assert caught.value.field == "messages"


def test_unknown_parts_are_refused_by_name_where_the_template_wants_text():
    with pytest.raises(InvalidRequestError, match="message 0 has a part of type riddle"):
        ChatTemplate({"default": AS_TEXT[0]}).render([{"role": "user", "content": [{"type": "riddle", "text": "x"}]}])


ASKS_NONE = """\
{%- for m in messages %}
    {%- if m['role'] == 'assistant' and m['content'] is none %}
        {%- for call in m['tool_calls'] %}{{- '<|assistant|>CALL ' + call['function']['name'] }}{% endfor %}
    {%- else %}
        {{- '<|' + m['role'] + '|>' + m['content'] }}
    {%- endif %}
{%- endfor %}"""


@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_a_turn_of_calls_has_no_content_whatever_the_template_asks(content):
    calls = [{"type": "function", "function": {"name": "now", "arguments": "{}"}}]
    messages = [{"role": "user", "content": "time?"}, {"role": "assistant", "tool_calls": calls, **content}]
    assert ChatTemplate({"default": ASKS_NONE}).render(messages) == "<|user|>time?<|assistant|>CALL now"
    for source in AS_TEXT[:3]:
        assert ChatTemplate({"default": source}).render(messages) == "<|user|>time?<|assistant|>"


def test_undefined_variables_are_not_none():
    source = "{{ thinking is none }} {{ tools is none }} {{ messages[0].name is none }}"
    assert ChatTemplate({"default": source}).render(PLAIN) == "False True True"


def test_no_tools_and_no_calls_are_as_if_not_given():
    source = (
        "{% if tools is not none %}You may call: {{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{% if 'tool_calls' in m %}CALL{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert (
        ChatTemplate({"default": source}).render([{"role": "user", "content": "hi", "tool_calls": []}], tools=[])
        == "hi"
    )


class Dumped:
    """What clients return: pydantic models have `model_dump`, others `to_dict`."""

    def __init__(self, way, **fields):
        setattr(self, way, lambda: fields)


@pytest.mark.parametrize("way", ["model_dump", "to_dict"])
def test_typed_messages_are_as_their_fields(model_path, way):
    template = ChatTemplate.load(model_path)
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    typed = [
        Dumped(way, role="user", content=[Dumped(way, type="text", text="hi")], name=None),
        Dumped(way, role="assistant", content="so", tool_calls=[Dumped(way, **call)]),
        {"role": "tool", "content": "noon"},
    ]
    plain = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "so", "tool_calls": [call]},
        {"role": "tool", "content": "noon"},
    ]
    assert template.render(typed) == template.render(plain)


def test_template_files_come_before_the_configuration(folder):
    (folder / "chat_template.jinja").write_text("from a file {{ eos_token }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    template = ChatTemplate.load(folder)
    assert template.render(PLAIN) == "from a file <|end|>"
    assert template.render(PLAIN, tools=TOOLS) == "with tools"


def test_special_tokens_may_be_objects_or_in_their_own_file(folder):
    configure(folder, eos_token={"content": "<|end|>", "special": True}, bos_token=None)
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|begin|>"}, "eos_token": "old"}')
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ eos_token }}")
    assert ChatTemplate.load(folder).render(PLAIN) == "<|begin|><|end|>"


def test_the_clock_is_the_one_given():
    template = ChatTemplate({"default": "{{ strftime_now('%Y-%m-%d') }}"}, now=lambda: datetime(2031, 2, 3))
    assert template.render(PLAIN) == "2031-02-03"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ strftime_now.__code__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ ('%s' | attr('format')).__func__ }}",
        "{{ messages | attr('__class__') | attr('__base__') | attr('__subclasses__') }}",
        "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
        "{{ messages[0].update(role='x') }}",
        "{% include 'etc/passwd' %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source):
    # What Jinja hides silently renders as nothing; the other attempts are errors.
    messages = [{"role": "user", "content": "hi"}]
    try:
        text = ChatTemplate({"default": source}).render(messages)
    except (ModelError, InvalidRequestError):
        text = ""
    assert text.strip() == ""
    assert messages == [{"role": "user", "content": "hi"}]


def test_calling_what_the_sandbox_forbids_is_the_models_fault():
    with pytest.raises(ModelError, match="sandbox"):
        ChatTemplate({"default": "{{ messages.append(1) }}"}).render(PLAIN)


def test_templates_get_copies_without_our_objects(model_path):
    class Trap(dict):
        def leak(self):
            return "leaked"

    source = "{{ messages[0].leak() }}"
    with pytest.raises(InvalidRequestError):
        ChatTemplate({"default": source}).render([Trap(role="user", content="x")])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "text",
        None,
        7,
        {"role": "user", "content": "x"},
        ["text"],
        [{"content": "no role"}],
        [{"role": 3, "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": {"text": "x"}}],
        [{"role": "user", "content": object()}],
        [{"role": "user", "content": "lone \ud800"}],
        [{"role": "user", "content": ["parts this template cannot show"]}],
    ],
)
def test_malformed_messages_are_named(model_path, messages):
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate.load(model_path).render(messages)
    assert caught.value.field == "messages"


def test_messages_that_contain_themselves_are_refused(model_path):
    message = {"role": "user", "content": []}
    message["content"].append(message)
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate.load(model_path).render([message])
    assert caught.value.field == "messages"


def test_a_template_refuses_in_its_own_words():
    with pytest.raises(InvalidRequestError, match="Unknown role: robot") as caught:
        ChatTemplate({"default": LLAMA_3}).render([{"role": "robot", "content": "x"}])
    assert caught.value.field == "messages"


@pytest.mark.parametrize("tools", ["search", [1], [{"type": object()}]])
def test_malformed_tools_are_named(model_path, tools):
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate.load(model_path).render(PLAIN, tools=tools)
    assert caught.value.field == "tools"


def test_variables_must_be_json(model_path):
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate.load(model_path).render(PLAIN, thinking=object())
    assert caught.value.field == "chat_template_kwargs"


@pytest.mark.parametrize(
    "source",
    ["{% for i in range(300) %}{% for j in range(300) %}spam{% endfor %}{% endfor %}", "{{ messages[0].content }}"],
)
def test_output_is_bounded(source, monkeypatch):
    monkeypatch.setattr(chat, "MAX_CHARACTERS", 1000)
    with pytest.raises(InvalidRequestError, match="1000") as caught:
        ChatTemplate({"default": source}).render([{"role": "user", "content": "x" * 1001}])
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "{% for message in messages %}"),
        ("chat_template.jinja", "{{ 'open"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", '{"chat_template": 3}'),
        ("tokenizer_config.json", '{"chat_template": ["a"]}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "other", "template": "x"}]}'),
    ],
)
def test_malformed_model_files_are_model_errors(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError):
        ChatTemplate.load(tmp_path)


def test_files_that_cannot_be_text_are_model_errors(tmp_path, monkeypatch):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTemplate.load(tmp_path)
    monkeypatch.setattr(model_files, "MAX_FILE_BYTES", 2)
    with pytest.raises(ModelError, match="more than 2 bytes"):
        ChatTemplate.load(tmp_path)
