//! The JSON Schema of the configuration files, for editors: what `wink config schema` prints and `docs/wink.schema.json` holds.
//!
//! It accepts what the reader accepts: each key in either spelling but not in both, and nothing else. What it cannot say (a size that is
//! no size, a pattern that matches nothing) the reader still checks.

use serde_json::{Map, Value, json};

/// One key: its name in snake_case, what it means, and the schema of its value.
type Key = (&'static str, &'static str, Value);

/// The schema.
pub fn schema() -> Value {
    let mut root = table(&top());
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("wink.toml, wink.json");
    root["description"] = json!("Configuration of wink: of a workspace, or of a user (config.toml, config.json).");
    root["properties"]["$schema"] = json!({ "type": "string", "description": "For editors; wink does not read it." });
    root
}

fn top() -> Vec<Key> {
    let env = json!({ "description": "Which environment variables reach the command, and which decide.", "$ref": "#/$defs/env" });
    vec![
        ("cache_dir", "Where the cache is. A relative path starts at the file's directory, ~/ is the home.", path()),
        (
            "max_size",
            "Largest size of the cache: 10GB (decimal), 10GiB (binary), a number of bytes, 20% (of the disk), or none.",
            size(),
        ),
        ("max_age", "How long an unused record is kept: 2w, 30d, 12h, 15m, 90s, or none.", age()),
        ("verify_integrity", "Hash every file that is restored, each time.", flag(false)),
        (
            "exclude_packages",
            "Globs over names of packages (package.json, Cargo.toml) whose tasks are never cached.",
            texts(),
        ),
        ("cache_failures", "Keep runs that failed, too.", flag(false)),
        ("scope", "Which part of the file tree is watched.", words(&["system", "workspace"], "system")),
        (
            "detect",
            "How inputs and outputs are found: by watching, by comparing the workspace before and after, by globs alone, or by comparing where watching is impossible.",
            words(&["trace", "snapshot", "glob", "auto"], "trace"),
        ),
        (
            "own",
            "What becomes of earlier outputs when a command runs again.",
            words(&["carry", "hide", "observe"], "carry"),
        ),
        (
            "canonical_root",
            "An absolute path at which the command sees the workspace.",
            json!({ "type": "string", "pattern": "^/.*[^/].*$" }),
        ),
        ("env", "", env),
        ("ignore", "Globs, relative to the workspace, of files that are neither inputs nor outputs.", texts()),
        ("scratch", "More directories that are caches of tools.", texts()),
        (
            "transport",
            "How the kernel's requests reach those who serve views and mounts.",
            words(&["auto", "classic", "uring"], "auto"),
        ),
        (
            "task",
            "Settings for some commands. Of several tables that match, the later one wins, key by key.",
            json!({ "type": "array", "items": { "$ref": "#/$defs/task" } }),
        ),
    ]
}

fn definitions() -> Value {
    let env: Vec<Key> = vec![
        (
            "mode",
            "Which variables the command gets: all, or a short list and those that are named.",
            words(&["loose", "strict"], "loose"),
        ),
        ("pass", "Variables that the command gets and whose values do not decide. Globs.", texts()),
        ("include", "Variables that the command gets and whose values decide, in any case. Globs.", texts()),
    ];
    let task: Vec<Key> = vec![
        ("match", "A glob over the whole command line, its words joined by one space.", json!({ "type": "string" })),
        ("cache", "Whether these commands are cached at all.", flag(true)),
        ("scope", "As at the top.", words(&["system", "workspace"], "system")),
        ("detect", "As at the top.", words(&["trace", "snapshot", "glob", "auto"], "trace")),
        ("own", "As at the top.", words(&["carry", "hide", "observe"], "carry")),
        ("cache_failures", "As at the top.", flag(false)),
        ("env", "", json!({ "description": "As at the top.", "$ref": "#/$defs/env" })),
        ("input", "Globs of files that are inputs whether or not the command reads them.", texts()),
        ("output", "Globs of the files that are the outputs.", texts()),
    ];
    let mut task = table_of(&task);
    task["required"] = json!(["match"]);
    json!({ "env": table_of(&env), "task": task })
}

fn table(keys: &[Key]) -> Value {
    let mut table = table_of(keys);
    table["$defs"] = definitions();
    table
}

/// An object with these keys, each in one of its spellings.
fn table_of(keys: &[Key]) -> Value {
    let (mut properties, mut once) = (Map::new(), Vec::new());
    for (snake, meaning, value) in keys {
        let mut value = value.clone();
        if !meaning.is_empty() {
            value["description"] = json!(meaning);
        }
        let camel = camel_case(snake);
        if camel != *snake {
            once.push(json!({ "not": { "required": [snake, camel] } }));
            properties.insert(camel, value.clone());
        }
        properties.insert((*snake).to_owned(), value);
    }
    let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !once.is_empty() {
        table["allOf"] = Value::Array(once);
    }
    table
}

/// `cache_dir` → `cacheDir`.
fn camel_case(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut camel, word| {
        camel.extend(word.chars().take(1).map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(word.get(1..).unwrap_or_default());
        camel
    })
}

fn flag(default: bool) -> Value {
    json!({ "type": "boolean", "default": default })
}

/// The reader takes one text for a list of one.
fn texts() -> Value {
    json!({ "type": ["array", "string"], "items": { "type": "string" } })
}

fn words(words: &[&str], default: &str) -> Value {
    json!({ "enum": words, "default": default })
}

fn path() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

fn size() -> Value {
    json!({ "type": ["string", "integer"], "minimum": 0, "default": "10GB", "examples": ["10GB", "10GiB", "20%", "none"] })
}

fn age() -> Value {
    json!({ "type": "string", "default": "30d", "examples": ["30d", "12h", "none"] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{ENV, TASK, TOP};

    #[test]
    fn it_has_the_keys_of_the_reader() {
        let schema = schema();
        let keys = |table: &Value| -> Vec<String> {
            let all = table["properties"].as_object().unwrap().keys();
            all.filter(|key| !key.contains(|letter: char| letter.is_ascii_uppercase())).cloned().collect()
        };
        let sorted = |known: &[&str]| {
            let mut known: Vec<String> = known.iter().map(|key| (*key).to_owned()).collect();
            known.sort();
            known
        };
        assert_eq!(keys(&schema), sorted(&TOP));
        assert_eq!(keys(&schema["$defs"]["env"]), sorted(&ENV));
        assert_eq!(keys(&schema["$defs"]["task"]), sorted(&TASK));
        assert!(
            schema["properties"]["verifyIntegrity"].is_object() && schema["properties"]["excludePackages"].is_object()
        );
    }

    #[test]
    fn the_committed_copy_is_this_one() {
        let committed = include_str!("../../docs/wink.schema.json");
        assert_eq!(committed, format!("{:#}\n", schema()), "run `wink config schema > docs/wink.schema.json`");
    }
}
