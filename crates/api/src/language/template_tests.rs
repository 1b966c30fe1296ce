#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use wattle_core::LanguageModel;
use wattle_serve::language::{Constraint, FinishReason, Prompt};

use super::{
    Conversation, Delta, Format, Message, Role, Tool, ToolCall, ToolChoice,
    template::{Rendered, Template},
};

const QWEN: &str = r##"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
            {%- set tool_call = tool_call.function %}
            {{- '<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"##;

const LLAMA: &str = r#"{{- bos_token }}
{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'user' and loop.first and not tools is none and tools is defined %}
        {{- '<|start_header_id|>user<|end_header_id|>\n\nRespond in the format {"name": function name, "parameters": dictionary of argument name and its value}.\n\n' }}
        {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
        {{- message.content | trim + "<|eot_id|>" }}
    {%- elif not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" + message.content + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"#;

const MISTRAL: &str = r#"{{- bos_token }}
{%- if tools is defined and tools %}{{- "[AVAILABLE_TOOLS] " + (tools|tojson) + "[/AVAILABLE_TOOLS]" }}{%- endif %}
{%- for message in messages %}
    {%- if message["role"] == "user" or message["role"] == "system" %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.id|length != 9 %}{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
            {{- (tool_call.function|tojson)[:-1] + ', "id": "' + tool_call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}"#;

const GEMMA: &str = r"{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}";

fn model(template: Option<&str>) -> LanguageModel {
    LanguageModel {
        architecture: "llama".into(),
        title: None,
        parameters: 1,
        weights: "f16".into(),
        context_tokens: 1024,
        width: 8,
        layers: 1,
        vocabulary: 32,
        cache_bytes_per_token: 8,
        embeds: false,
        chat_template: template.map(str::to_owned),
        beginning: Some("<s>".into()),
        end: Some("</s>".into()),
    }
}

fn render(template: &str, conversation: &Conversation) -> crate::Result<Rendered> {
    Template::of(&model(Some(template)))?.render(conversation)
}

fn text(rendered: &Rendered) -> &str {
    match &rendered.prompt {
        Prompt::Text { text, special: true } => text,
        other => panic!("{other:?} is no rendered text"),
    }
}

fn conversation(messages: &[(Role, &str)]) -> Conversation {
    let messages = messages.iter().map(|(role, text)| Message::plain(*role, text)).collect();
    Conversation { messages, parallel_calls: true, ..Conversation::default() }
}

fn with_tools(mut conversation: Conversation) -> Conversation {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    conversation.tools = vec![Tool { name: "weather".into(), description: Some("<b>".into()), parameters }];
    conversation
}

/// A question, the call that it led to, and the tool's answer.
fn called() -> Conversation {
    let mut asked = with_tools(conversation(&[(Role::User, "Weather?"), (Role::Assistant, ""), (Role::Tool, "rain")]));
    asked.messages[1].calls = vec![ToolCall {
        id: "call_0123456789abcdef".into(),
        name: "weather".into(),
        arguments: "{\"city\":\"Ulm\"}".into(),
    }];
    asked.messages[2].call_id = Some("call_0123456789abcdef".into());
    asked
}

#[test]
fn a_model_without_a_template_speaks_chatml() {
    let asked = conversation(&[(Role::System, "Be brief"), (Role::User, "Hi")]);
    let rendered = Template::of(&model(None)).unwrap().render(&asked).unwrap();
    let expected = "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text(&rendered), expected);
    assert_eq!(rendered.constraint, Constraint::None);
}

#[test]
fn qwen_is_told_of_tools_calls_and_answers() {
    let rendered = render(QWEN, &called()).unwrap();
    let expected = "<|im_start|>system\n# Tools\n\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \
                    \"weather\", \"description\": \"<b>\", \"parameters\": {\"type\": \"object\", \"properties\": \
                    {\"city\": {\"type\": \"string\"}}}}}\n</tools>\n\n<tool_call>\n{\"name\": <function-name>, \
                    \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n\
                    <|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}\n\
                    </tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>\n\
                    <|im_start|>assistant\n";
    assert_eq!(text(&rendered), expected);
}

#[test]
fn thinking_is_turned_off_where_the_answer_has_a_form_or_the_caller_says_so() {
    let mut asked = conversation(&[(Role::User, "Hi")]);
    asked.format = Format::Json;
    let rendered = render(QWEN, &asked).unwrap();
    assert!(text(&rendered).ends_with("<think>\n\n</think>\n\n"));
    assert_eq!(rendered.constraint, Constraint::Json);
    asked.format = Format::Text;
    assert!(text(&render(QWEN, &asked).unwrap()).ends_with("assistant\n"));
    asked.variables.insert("enable_thinking".into(), Value::Bool(false));
    assert!(text(&render(QWEN, &asked).unwrap()).ends_with("</think>\n\n"));
    // A template that always opens thoughts has them closed for an answer with a form, and read as such otherwise.
    let opening = "{{ messages[0].content }}{% if false %}</think>{% endif %}<think>\n";
    asked.format = Format::Regex("a+".into());
    assert_eq!(text(&render(opening, &asked).unwrap()), "Hi<think>\n\n</think>\n\n");
    asked.format = Format::Text;
    let deltas = render(opening, &asked).unwrap().reading.begin().take("hm</think>yes");
    assert_eq!(deltas, [Delta::Reasoning("hm".into()), Delta::Text("yes".into())]);
}

#[test]
fn llama_is_told_of_tools_in_its_own_way() {
    let rendered = render(LLAMA, &called()).unwrap();
    let text = text(&rendered);
    assert!(text.starts_with("<s><|start_header_id|>system"), "{text}");
    assert!(text.contains("{\n    \"type\": \"function\""), "{text}");
    assert!(text.contains("{\"name\": \"weather\", \"parameters\": {\"city\": \"Ulm\"}}<|eot_id|>"), "{text}");
    assert!(text.contains("ipython<|end_header_id|>\n\nrain"), "{text}");
    let mut twice = called();
    let call = twice.messages[1].calls[0].clone();
    twice.messages[1].calls.push(call);
    let error = render(LLAMA, &twice).unwrap_err();
    assert!(error.message.contains("only supports single tool-calls"), "{error}");
}

#[test]
fn mistral_has_short_ids_and_is_made_to_call() {
    let mut asked = called();
    let told = render(MISTRAL, &asked).unwrap();
    assert!(text(&told).contains("\"id\": \"789abcdef\""), "{}", text(&told));
    assert!(text(&told).contains("\"call_id\": \"789abcdef\""));
    asked.tool_choice = ToolChoice::Required;
    let rendered = render(MISTRAL, &asked).unwrap();
    assert!(text(&rendered).ends_with("[TOOL_CALLS]"));
    let Constraint::Lark(grammar) = &rendered.constraint else { panic!("no grammar") };
    assert!(grammar.starts_with("start: \"[\" call (\", \" call)* \"]\"\n"), "{grammar}");
}

#[test]
fn gemma_has_the_system_message_in_the_first_turn_and_tools_in_words() {
    let asked =
        conversation(&[(Role::System, "Be brief"), (Role::User, "Hi"), (Role::Assistant, "Yes"), (Role::User, "Bye")]);
    let expected = "<s><start_of_turn>user\nBe brief\n\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n\
                    <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(text(&render(GEMMA, &asked).unwrap()), expected);
    let rendered = render(GEMMA, &called()).unwrap();
    let told = text(&rendered);
    assert!(told.contains("<tools>\n{\"type\":\"function\""), "{told}");
    assert!(told.contains("model\n<tool_call>\n{\"name\":\"weather\",\"arguments\":{\"city\":\"Ulm\"}}\n</tool_call>"));
    assert!(told.contains("user\n<tool_response>\nrain\n</tool_response>"));
}

#[test]
fn a_named_tool_is_called_with_valid_arguments_by_the_grammar() {
    let mut asked = with_tools(conversation(&[(Role::User, "Hi")]));
    asked.tool_choice = ToolChoice::Named("weather".into());
    asked.parallel_calls = false;
    let rendered = render(QWEN, &asked).unwrap();
    let Constraint::Lark(grammar) = &rendered.constraint else { panic!("no grammar") };
    let lines: Vec<&str> = grammar.lines().collect();
    assert_eq!(lines[..2], ["start: \"<tool_call>\\n\" call \"\\n</tool_call>\"", "call: call_0"]);
    assert_eq!(lines[2], r#"call_0: "{\"name\": \"weather\", \"arguments\": " call_0_arguments "}""#);
    assert!(lines[3].starts_with("call_0_arguments: %json {\"type\":\"object\""), "{grammar}");
    assert_eq!(rendered.stop, ["</tool_call>"]);
    asked.tool_choice = ToolChoice::Named("time".into());
    assert!(render(QWEN, &asked).is_err());
    asked.tools.clear();
    asked.tool_choice = ToolChoice::Required;
    assert!(render(QWEN, &asked).is_err());
}

#[test]
fn the_last_turn_can_be_continued() {
    let mut asked = conversation(&[(Role::User, "Hi"), (Role::Assistant, "Well, ")]);
    asked.continues = true;
    let rendered = render(QWEN, &asked).unwrap();
    assert_eq!(text(&rendered), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell,");
}

#[test]
fn tools_that_must_not_be_called_are_not_told() {
    let mut asked = with_tools(conversation(&[(Role::User, "Hi")]));
    asked.tool_choice = ToolChoice::None;
    let rendered = render(QWEN, &asked).unwrap();
    assert!(!text(&rendered).contains("<tools>"));
    let mut reader = rendered.reading.begin();
    assert_eq!(reader.take("<tool_call>"), [Delta::Text("<tool_call>".into())]);
    assert_eq!(reader.end(FinishReason::End).len(), 1);
}

#[test]
fn bad_templates_end_with_a_reason() {
    let asked = conversation(&[(Role::User, "Hi")]);
    let error = render("{% for %}", &asked).unwrap_err();
    assert!(error.message.contains("cannot be read"), "{error}");
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
    assert!(render(endless, &asked).is_err());
    let growing =
        "{% set n = namespace(s='x') %}{% for a in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}";
    assert!(render(growing, &asked).is_err());
}
