//! One operation: a method on a path, what it takes and what it answers.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::Code;

/// An operation under description.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: String,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Map<String, Value>,
    /// The schema of its errors.
    error: &'static str,
}

/// The schema of this name.
pub(super) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A list of what has the schema of this name.
pub(super) fn list_of(name: &str) -> Value {
    json!({"type": "array", "items": named(name)})
}

impl Operation {
    pub(super) fn new(method: &'static str, path: &str, tag: &'static str, summary: &'static str) -> Operation {
        Operation {
            method,
            path: path.to_owned(),
            tag,
            summary,
            description: "",
            parameters: Vec::new(),
            body: None,
            answers: Map::new(),
            error: "Error",
        }
    }

    /// Tells errors in this form; said before what it fails for.
    pub(super) fn tells_errors_as(mut self, schema: &'static str) -> Operation {
        self.error = schema;
        self
    }

    /// Says more than the summary does.
    pub(super) fn says(mut self, description: &'static str) -> Operation {
        self.description = description;
        self
    }

    pub(super) fn query(mut self, name: &str, schema: &Value, description: &str) -> Operation {
        self.parameters.push(json!({"name": name, "in": "query", "description": description, "schema": schema}));
        self
    }

    pub(super) fn header(mut self, name: &str, schema: &Value, description: &str) -> Operation {
        self.parameters.push(json!({"name": name, "in": "header", "description": description, "schema": schema}));
        self
    }

    /// Takes JSON.
    pub(super) fn takes(self, schema: &Value, example: &Value) -> Operation {
        self.takes_any(true, &[("application/json", schema.clone(), example.clone())])
    }

    /// Takes a body of one of these content types, each with its schema and an example.
    pub(super) fn takes_any(mut self, is_required: bool, kinds: &[(&str, Value, Value)]) -> Operation {
        let mut content = Map::new();
        for (kind, schema, example) in kinds {
            let mut media = json!({"schema": schema});
            if !example.is_null() {
                media["example"] = example.clone();
            }
            content.insert((*kind).to_owned(), media);
        }
        self.body = Some(json!({"required": is_required, "content": content}));
        self
    }

    /// Answers JSON.
    pub(super) fn answers(self, status: StatusCode, description: &str, schema: &Value) -> Operation {
        self.answers_as(status, description, "application/json", schema)
    }

    pub(super) fn answers_as(self, status: StatusCode, description: &str, kind: &str, schema: &Value) -> Operation {
        self.answer(status, json!({"description": description, "content": {kind: {"schema": schema}}}))
    }

    /// Can answer the same in another content type.
    pub(super) fn or_as(mut self, status: StatusCode, kind: &str, schema: &Value) -> Operation {
        if let Some(answer) = self.answers.get_mut(status.as_str()) {
            answer["content"][kind] = json!({"schema": schema});
        }
        self
    }

    /// Answers without a body.
    pub(super) fn answers_nothing(self, status: StatusCode, description: &str) -> Operation {
        self.answer(status, json!({"description": description}))
    }

    /// The same with these headers.
    pub(super) fn with_headers(mut self, headers: &[(&str, &str)]) -> Operation {
        let headers: Map<String, Value> = headers
            .iter()
            .map(|(name, description)| {
                ((*name).to_owned(), json!({"description": description, "schema": {"type": "string"}}))
            })
            .collect();
        if let Some(answer) = self.answers.values_mut().next() {
            answer["headers"] = Value::Object(headers);
        }
        self
    }

    /// Can fail for these reasons, beside those that every operation has.
    pub(super) fn fails(mut self, codes: &[(Code, &str)]) -> Operation {
        for (code, description) in codes {
            let mut answer = json!({
                "description": description,
                "content": {"application/json": {"schema": named(self.error)}},
            });
            if matches!(code, Code::TooMany | Code::Unavailable) {
                let described = "When it is worth to try again, in seconds.";
                answer["headers"] = json!({"retry-after": {"description": described, "schema": {"type": "integer"}}});
            }
            self = self.answer(code.status(), answer);
        }
        self
    }

    fn answer(mut self, status: StatusCode, answer: Value) -> Operation {
        self.answers.insert(status.as_u16().to_string(), answer);
        self
    }

    /// Its own name, for the functions that tools make of it.
    pub(super) fn id(&self) -> String {
        let mut id = self.method.to_owned();
        for word in self.path.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
            let (first, rest) = word.split_at(1);
            id += &first.to_ascii_uppercase();
            id += rest;
        }
        id
    }

    pub(super) fn describe(self) -> Value {
        let id = self.id();
        let mut parameters: Vec<Value> = path_parameters(&self.path);
        parameters.extend(self.parameters);
        let mut answers = self.answers;
        let others = "Something else is wrong: with the request (400), its origin (403), its size or time (408, 413, 431), or the server (500, 503).";
        answers.insert(
            "default".to_owned(),
            json!({"description": others, "content": {"application/json": {"schema": named(self.error)}}}),
        );
        let mut described = json!({
            "operationId": id,
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": parameters,
            "responses": answers,
        });
        if !self.description.is_empty() {
            described["description"] = self.description.into();
        }
        if let Some(body) = self.body {
            described["requestBody"] = body;
        }
        described
    }
}

/// What the braces of a path stand for.
fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameter = |name: &str| {
        let (schema, description) = match name {
            "id" => (json!({"type": "string", "format": "uuid"}), "the job"),
            "version" => (
                json!({"type": "string", "examples": ["1", "latest", "@champion"]}),
                "the version's number; to read one also `latest`, or an alias as `@champion`",
            ),
            "deployment" => (named("Name"), "the deployment"),
            "alias" => (named("Name"), "the alias"),
            _ => (named("Name"), "its name"),
        };
        json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
    };
    names.map(parameter).collect()
}
