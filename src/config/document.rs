//! TOML and JSON as one kind of tree that remembers line numbers, so that everything behind it is written once.

/// A value and the line it stands in, where that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its line, counted from 1.
    pub line: Option<usize>,
}

/// The kinds of values that a configuration can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Several values.
    List(Vec<Node>),
    /// Keys and values, in the order of the file where that is known.
    Table(Vec<Field>),
    /// Anything else, by what people call it.
    Other(&'static str),
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The key as written.
    pub key: String,
    /// What it is set to; its line is the key's.
    pub node: Node,
}

impl Value {
    /// What people call this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// A text that is no document: what is wrong, and in which line.
#[derive(Debug)]
pub struct Malformed {
    /// What is wrong.
    pub message: String,
    /// Where, if known.
    pub line: Option<usize>,
}

/// Reads TOML.
pub fn toml(text: &str) -> Result<Vec<Field>, Malformed> {
    let table = toml::de::DeTable::parse(text).map_err(|error| Malformed {
        message: error.message().to_owned(),
        line: error.span().map(|span| line_at(text, span.start)),
    })?;
    Ok(toml_table(text, table.get_ref()))
}

/// Reads JSON; the top must be an object.
pub fn json(text: &str) -> Result<Vec<Field>, Malformed> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        Malformed { message, line: Some(error.line()) }
    })?;
    match json_value(text, &value, None).value {
        Value::Table(fields) => Ok(fields),
        other => Err(Malformed { message: format!("expected an object, found {}", other.kind()), line: None }),
    }
}

/// Reads a JSON value that came from elsewhere than a file.
pub fn json_node(text: &str) -> Result<Node, String> {
    let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Node { line: None, ..json_value("", &value, None) })
}

fn toml_table(text: &str, table: &toml::de::DeTable<'_>) -> Vec<Field> {
    let mut fields: Vec<(usize, Field)> = table
        .iter()
        .map(|(key, value)| {
            let start = key.span().start;
            let node = Node { value: toml_value(text, value.get_ref()), line: Some(line_at(text, start)) };
            (start, Field { key: key.get_ref().to_string(), node })
        })
        .collect();
    fields.sort_by_key(|(start, _)| *start);
    fields.into_iter().map(|(_, field)| field).collect()
}

fn toml_value(text: &str, value: &toml::de::DeValue<'_>) -> Value {
    use toml::de::DeValue;
    match value {
        DeValue::String(string) => Value::Text(string.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number that is too large"), Value::Number),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node {
                    value: toml_value(text, item.get_ref()),
                    line: Some(line_at(text, item.span().start)),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(toml_table(text, table)),
    }
}

fn json_value(text: &str, value: &serde_json::Value, line: Option<usize>) -> Node {
    let value = match value {
        serde_json::Value::Null => Value::Other("null"),
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::Number(number) => number.as_i64().map_or(Value::Other("a fraction"), Value::Number),
        serde_json::Value::String(string) => Value::Text(string.clone()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(|item| json_value(text, item, line)).collect()),
        serde_json::Value::Object(fields) => Value::Table(
            fields
                .iter()
                .map(|(key, value)| Field { key: key.clone(), node: json_value(text, value, line_of_key(text, key)) })
                .collect(),
        ),
    };
    Node { value, line }
}

/// The line of a JSON key. The parser does not tell; if the key occurs more than once, no line is better than a wrong one.
fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let quoted = format!("\"{key}\"");
    let mut places =
        text.match_indices(&quoted).filter(|(at, _)| text[at + quoted.len()..].trim_start().starts_with(':'));
    match (places.next(), places.next()) {
        (Some((at, _)), None) => Some(line_at(text, at)),
        _ => None,
    }
}

/// The line, counted from 1, of a byte offset.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_lines() {
        let fields = toml("# x\nown = \"hide\"\n\n[env]\npass = [\n \"A\",\n]\n[[task]]\nmatch = \"*\"\n").unwrap();
        let lines: Vec<_> = fields.iter().map(|field| (field.key.as_str(), field.node.line)).collect();
        assert_eq!(lines, [("own", Some(2)), ("env", Some(4)), ("task", Some(8))]);
        assert_eq!(toml("a = 1\nb = = 2\n").unwrap_err().line, Some(2));
    }

    #[test]
    fn json_lines_only_when_certain() {
        let fields = json("{\n \"own\": \"own\",\n \"a\": {\"x\": 1},\n \"b\": {\"x\": 2}\n}").unwrap();
        let own = fields.iter().find(|field| field.key == "own").unwrap();
        assert_eq!(own.node.line, Some(2));
        let a = fields.iter().find(|field| field.key == "a").unwrap();
        match &a.node.value {
            Value::Table(inner) => assert_eq!(inner[0].node.line, None),
            other => panic!("{other:?}"),
        }
        assert_eq!(json("{\n oops").unwrap_err().line, Some(2));
        assert!(json("[]").is_err());
    }
}
